"""What a step costs beside its arithmetic: a few Python calls, and nothing that grows with the model's layers."""

import sys
from collections.abc import Callable
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
