"""What a step costs beside its arithmetic: a few Python calls, and nothing that grows with the model's layers."""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.engine.events import EngineRequest
from woolly_worker.queue.loading import LoadedModel, load_model
from woolly_worker.settings import WorkerSettings

N_STEPS = 10


@pytest.fixture
def decoding() -> Any:
    """The demo model in the middle of a greedy completion."""
    model = load_model(WorkerSettings(model=DEMO_MODEL, threads=1, slots=2), lambda events: None)
    sampling = SamplingParams(max_tokens=200, temperature=0, seed=1, ignore_eos=True)
    model.engine.submit(EngineRequest(job_id="a", fence=1, prompt_ids=(5, 6, 7), sampling=sampling))
    for _ in range(5):
        model.engine.step()
    yield model
    model.engine.stop()
    model.close()


def calls_of(step: Callable[[], object]) -> tuple[int, list[str]]:
    """Calls per step, Python's and C's, and the names of those that make NumPy arrays or are an array's own."""
    n, made = 0, []
    makers = {np.zeros, np.empty, np.array, np.asarray, np.ascontiguousarray, np.copy, np.frombuffer}

    def count(frame: FrameType, event: str, called: Any) -> None:
        nonlocal n
        n += event in ("call", "c_call")
        if event == "c_call" and (called in makers or isinstance(getattr(called, "__self__", None), np.ndarray)):
            made.append(called.__name__)

    sys.setprofile(count)
    try:
        for _ in range(N_STEPS):
            step()
    finally:
        sys.setprofile(None)
    return n // N_STEPS, made


def test_the_forward_pass_is_a_handful_of_calls(decoding: LoadedModel) -> None:
    """Three of ours, ctypes' own, and none for a layer: the demo model's four would show. No array is made but the
    view of the logits."""
    n, made = calls_of(decoding.transformer.step)
    assert n <= 8
    assert made == []


def test_a_greedy_step_of_the_engine_is_bounded(decoding: LoadedModel) -> None:
    """Schedule, forward, sample, detokenize, emit: below 100 calls for one sequence, and logits are not copied."""
    n, made = calls_of(decoding.engine.step)
    assert n <= 100
    assert set(made) <= {"argmax"}
    assert decoding.engine.scratch.figures().n_leases_ever == 0


@pytest.fixture
def traced() -> Iterator[None]:
    """Every allocation of Python's, and of NumPy's array data, is counted."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_bytes_of(step: Callable[[], object]) -> int:
    """The most that a step holds at any moment beyond what was there before it, as the least of some steps: another
    thread may allocate as well."""
    peaks = []
    for _ in range(N_STEPS):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        step()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    return min(peaks)


def test_the_forward_pass_takes_no_memory_for_arrays(decoding: LoadedModel, traced: None) -> None:
    """A few numbers and a view: even one row of the demo model's smallest activation would be more."""
    peak_bytes_of(decoding.transformer.step)
    assert peak_bytes_of(decoding.transformer.step) < 4 * decoding.config.n_embd


def held() -> tuple[int, int, int]:
    """What lives now: allocations made in our files, their bytes, and bytes of NumPy's arrays, whoever made them."""
    snapshot = tracemalloc.take_snapshot()
    ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/woolly_worker/*")]).traces
    arrays = snapshot.filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]).traces
    return len(ours), sum(trace.size for trace in ours), sum(trace.size for trace in arrays)


def test_a_step_leaves_its_token_behind_and_no_array(decoding: LoadedModel, traced: None) -> None:
    """A token's id and text live as long as its sequence: two objects, and a share of the lists that hold them."""
    n_steps = 4 * N_STEPS
    for _ in range(N_STEPS):
        decoding.engine.step()
    n_before, bytes_before, arrays_before = held()
    for _ in range(n_steps):
        decoding.engine.step()
    n_after, bytes_after, arrays_after = held()
    assert arrays_after == arrays_before
    assert n_after - n_before <= 2 * n_steps
    assert bytes_after - bytes_before <= 128 * n_steps


def test_a_sequence_leaves_nothing_behind(decoding: LoadedModel, traced: None) -> None:
    """The same request again and again: nothing grows but counters, each of which is an object beyond 256. The first
    run may fill caches, the prefix cache among them."""

    def complete(job_id: str) -> tuple[int, int, int]:
        sampling = SamplingParams(max_tokens=40, temperature=0, seed=1, ignore_eos=True)
        decoding.engine.submit(EngineRequest(job_id=job_id, fence=1, prompt_ids=(5, 6, 7), sampling=sampling))
        while decoding.engine.step():
            pass
        gc.collect()
        return held()

    decoding.engine.cancel("a")
    complete("b")
    n_before, bytes_before, arrays_before = complete("c")
    for i in range(20):
        n_after, bytes_after, arrays_after = complete(f"d{i}")
    assert arrays_after == arrays_before
    assert n_after - n_before < 20
    assert bytes_after - bytes_before < 20 * 32
