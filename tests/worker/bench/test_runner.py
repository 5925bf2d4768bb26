"""The runner does every work of a plan with a real model, on keys and values that are there."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from woolly_worker.bench.plan import Decode, Mixed, Prefill, Work
from woolly_worker.bench.runner import Runner, affordable, seconds_of
from woolly_worker.demo import DEMO_MODEL

PLAN: list[Work] = [Prefill(40), Decode(3, batch=2), Decode(2, depth=70), Mixed(batch=2, n_prompt=20, chunk=8)]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner(DEMO_MODEL, PLAN, n_threads=1)
    yield runner
    runner.close()


@pytest.mark.parametrize("work", PLAN, ids=lambda work: work.name)
def test_every_step_takes_time_and_gives_finite_logits(work: Work, runner: Runner) -> None:
    steps = runner.run(work)
    assert len(steps) == {"prefill": 1, "decode": getattr(work, "n_steps", 0), "mixed": 3}[work.do]
    assert all(seconds > 0 for seconds in steps)
    batch = runner.transformer.batch
    assert batch.n_logit_rows == (1 if isinstance(work, Prefill) else work.batch + isinstance(work, Mixed))
    assert np.isfinite(runner.transformer.step()).all()


def test_no_block_is_left_untouched(runner: Runner) -> None:
    kv = runner.kv
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * kv.n_bytes).from_address(kv.base))
    assert memory.reshape(kv.layout.n_layer, kv.n_blocks, -1).any(axis=2).all()


def test_slots_share_no_block(runner: Runner) -> None:
    runner.run(Decode(3, batch=2))
    first, second = runner.transformer.batch.block_tables[:2, 0]
    assert first != second


def test_a_decode_counts_its_median_step() -> None:
    assert seconds_of(Decode(3), [1.0, 9.0, 2.0]) == 6.0
    assert seconds_of(Prefill(3), [1.0, 9.0, 2.0]) == 12.0


def test_what_does_not_fit_into_memory_is_left_out() -> None:
    huge = Decode(1, batch=1 << 20, depth=1 << 20)
    assert affordable(Path(DEMO_MODEL), [Prefill(8), huge, Decode(1)], with_peer=True) == [Prefill(8), Decode(1)]
