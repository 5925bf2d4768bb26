"""The naive engine computes the same model: against NumPy in float64, and against the kernels through the engine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_reference
import numpy as np
import pytest
import shaped_gguf
from gguf import GGMLQuantizationType as Type
from step_harness import Bench

from woolly_worker.contract.errors import UnsupportedArchitecture
from woolly_worker.contract.jobs import ChatMessage, JobRequest, SamplingParams
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.engine.events import EngineEvent, EngineRequest, SequenceDone, TokenOut
from woolly_worker.kernels import naive
from woolly_worker.memory.kv_cache import BLOCK_TOKENS
from woolly_worker.model.baseline import Baseline
from woolly_worker.model.weights import open_model
from woolly_worker.queue.loading import BASELINE, load_model
from woolly_worker.queue.prompts import prompt_ids
from woolly_worker.settings import WorkerSettings

IDS = np.random.default_rng(1).integers(0, 60, 70).tolist()


@pytest.mark.parametrize("kind", list(shaped_gguf.SHAPES), ids=lambda kind: kind.name)
def test_every_tensor_type_gives_what_numpy_gives(kind: Type, tmp_path: Path) -> None:
    """Nothing is rounded but to f32; plain sums of up to 512 terms leave some 1e-6 of the logits' size for each layer,
    and 1e-4 is the bound."""
    path = shaped_gguf.write(tmp_path / "model.gguf", kind)
    exact = llama_reference.logits(path, IDS)
    with Bench(path, baseline=True) as bench:
        got = bench.logits(IDS)
    assert np.abs(got - exact).max() < 1e-4 * np.abs(exact).max()


def test_company_and_chunks_and_the_place_of_blocks_change_no_bit(tmp_path: Path) -> None:
    path = shaped_gguf.write(tmp_path / "model.gguf", Type.Q8_0)
    with Bench(path, baseline=True) as bench:
        alone = bench.logits(IDS)
        bench.place_blocks(seed=3)
        steps = [[(0, 7), (1, 30)], [(1, 33), (0, 1)], [(0, 62), (1, 7)]]
        together = bench.run([IDS, IDS[::-1]], steps)
    assert together[0].tobytes() == alone.tobytes()


def test_it_refuses_what_it_does_not_compute(tmp_path: Path) -> None:
    config, weights = open_model(shaped_gguf.write(tmp_path / "model.gguf", Type.F32))
    sizes = {"n_blocks": 1, "max_step_tokens": 1, "max_logit_rows": 1, "max_slots": 1, "n_ctx": 8}
    with weights.file, pytest.raises(UnsupportedArchitecture, match="this is falcon"):
        Baseline(replace(config, architecture="falcon"), weights, **sizes)


def test_it_refuses_a_mixture_of_experts(tmp_path: Path) -> None:
    path = shaped_gguf.write(tmp_path / "model.gguf", Type.F32, shaped_gguf.MIXTURE)
    with pytest.raises(UnsupportedArchitecture, match="mixture of experts"):
        Bench(path, baseline=True)


def test_blocks_are_as_long_as_the_engines() -> None:
    assert naive.BLOCK_TOKENS == BLOCK_TOKENS


def answers(questions: Sequence[str], **settings: Any) -> tuple[list[str], tuple[str, ...]]:
    """The greedy answers of the demo model, all asked at once; and what the worker says it has switched on."""
    text = dict.fromkeys(questions, "")
    n_done = 0

    def on_events(events: Sequence[EngineEvent]) -> None:
        nonlocal n_done
        for event in events:
            if isinstance(event, TokenOut | SequenceDone):
                text[event.job_id] += event.text
            n_done += isinstance(event, SequenceDone)

    loaded = load_model(WorkerSettings(model=DEMO_MODEL, threads=1, **settings), on_events)
    sampling = SamplingParams(temperature=0, seed=0, max_tokens=40)
    for question in questions:
        messages = (ChatMessage(role="user", content=question),)
        ids = prompt_ids(JobRequest(model="demo", messages=messages), loaded.tokenizer, loaded.chat)
        loaded.engine.submit(EngineRequest(question, 1, ids, sampling))
    while n_done < len(questions):
        loaded.engine.step()
    loaded.close()
    return list(text.values()), loaded.optimizations


def test_the_demo_model_says_the_same_and_the_worker_says_how_it_computes() -> None:
    """Questions with one answer: in a story, where two words are as good, rounding may choose another one."""
    questions = ("What is the capital of France?", "What is 7 + 8?", "Is 28 odd or even?", "What does the cow say?")
    naive_answers, naive_switches = answers(questions, baseline=True)
    fast_answers, fast_switches = answers(questions)
    assert naive_answers == fast_answers
    assert BASELINE in naive_switches
    assert not any(switch.startswith("simd_") for switch in naive_switches)
    assert BASELINE not in fast_switches


def test_logits_of_the_demo_model_are_close_to_the_kernels() -> None:
    """The kernels round activations to 8 bits. On this text the largest difference was 0.22 of logits that spread over
    28, the mean 0.036: the bounds are some twice as much. A wrong operation anywhere gives differences of 2."""
    ids = np.random.default_rng(2).integers(3, 500, 48).tolist()
    with Bench(DEMO_MODEL, baseline=True) as bench:
        plain = bench.logits(ids)
    with Bench(DEMO_MODEL) as bench:
        fast = bench.logits(ids)
    assert np.abs(plain - fast).mean() < 0.08
    assert np.abs(plain - fast).max() < 0.5
