"""What llama.cpp computed for the same files: logits, greedy continuations and perplexities.

The golden files' README says what two correct implementations may differ in: llama.cpp rounds activations to the
type that its dot products read, so its logits for quantised files lie up to 0.55 from the exact ones. Keys and values
are f32 here, as they were there.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from step_harness import Bench

from woolly_worker.model.tokenizer import Tokenizer

FLOATS = ("stories260K-f32", "stories260K-F16", "stories260K-BF16", "stories260K-moe-f32", "babyllama-tok361-F16")
WITHOUT_EXACT = ("stories260K-moe-f32",)  # llama.cpp, which computed in f32, is the only witness
QUANTISED = (
    "stories260K-Q8_0",
    "babyllama-wide-Q8_0",
    "babyllama-wide-Q4_0",
    "babyllama-wide-Q6_K",
    "babyllama-wide-Q5_K_M",
    "babyllama-wide-Q4_K_M",
    "babyllama-wide-Q3_K_M",
    "babyllama-wide-Q2_K",
)
MODELS = FLOATS + QUANTISED
Doubles = npt.NDArray[np.float64]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, shared_data: Path) -> Iterator[tuple[str, Bench]]:
    with Bench(shared_data / "models" / f"{request.param}.gguf", kv_dtype="f32", max_slots=1) as bench:
        yield request.param, bench


@cache
def load(path: Path) -> Any:
    return json.loads(path.read_text())


def log_softmax(logits: npt.NDArray[Any]) -> Doubles:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def mean_kl(exact: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    p, q = log_softmax(exact), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def test_logits(model: tuple[str, Bench], shared_data: Path) -> None:
    name, bench = model
    golden = np.load(shared_data / "golden" / "logits" / f"{name}.npz")
    got = bench.logits(golden["tokens"].tolist())
    exact = golden["logits" if name in WITHOUT_EXACT else "logits_f64_dequant"]
    assert got.shape == exact.shape
    difference = np.abs(got - exact).max()
    if name in FLOATS:
        assert difference < 1e-4
    else:
        assert difference <= 0.55
        assert mean_kl(exact, got) < 0.002
    if name == "stories260K-f32":
        assert np.abs(got - golden["logits"]).max() < 1e-4


def test_logits_are_as_close_to_exact_as_llama_cpp_s(model: tuple[str, Bench], shared_data: Path) -> None:
    """By the KL divergence from the exact distributions. Rounding falls as it falls: a factor of two is luck."""
    name, bench = model
    if name in WITHOUT_EXACT:
        return
    golden = np.load(shared_data / "golden" / "logits" / f"{name}.npz")
    got = bench.logits(golden["tokens"].tolist())
    theirs = mean_kl(golden["logits_f64_dequant"], golden["logits"])
    assert mean_kl(golden["logits_f64_dequant"], got) <= 2 * theirs + 1e-9


def test_greedy_continuations(model: tuple[str, Bench], shared_data: Path) -> None:
    """The text token by token, up to a step where the best two are too close to be called.

    Where another token wins here, it must be by less than half of the README's margin; led back onto the golden path,
    all steps behind must agree in the same sense.
    """
    name, bench = model
    tokenizer = Tokenizer.from_gguf(bench.weights.file)
    margin = 0.5 if name in QUANTISED else 0.01
    cases = [c for c in load(shared_data / "golden" / "generations.json") if c["model"] == f"{name}.gguf"]
    assert cases
    for case in cases:
        prompt, expected = case["prompt_ids"], case["generated_ids"]
        assert tokenizer.encode(case["prompt"]) == prompt
        scores = bench.logits(prompt + expected[:-1])[len(prompt) - 1 :]
        lost_by = scores.max(axis=1) - scores[np.arange(len(expected)), expected]
        assert (lost_by < margin / 2).all()
        if case["min_top2_margin"] >= margin:
            assert not lost_by.any()
        agreed = int(np.argmax(lost_by > 0)) if lost_by.any() else len(expected)
        got = bench.greedy(prompt, len(expected))
        assert got[:agreed] == expected[:agreed]
        if agreed == len(expected):
            text = b"".join(tokenizer.token_bytes(token) for token in got).decode()
            assert text == case["text"]


def perplexity(bench: Bench, ids: list[int], n_ctx: int, bos: int, n_chunks: int | None = None) -> float:
    """As perplexity.json defines it; `n_chunks` stops early."""
    losses: list[Doubles] = []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx)[:n_chunks]:
        chunk = [bos, *ids[start + 1 : start + n_ctx]]
        scores = log_softmax(bench.logits(chunk))
        scored = np.arange(n_ctx // 2, n_ctx - 1)
        losses.append(-scores[scored, np.array(chunk)[scored + 1]])
    return float(np.exp(np.concatenate(losses).mean()))


def test_perplexity(model: tuple[str, Bench], shared_data: Path) -> None:
    """Within 0.5 % for files of floats and 2 % for quantised ones; the sampling error of the text itself is 2 to 4 %,
    but that is the same for both programs."""
    name, bench = model
    results = load(shared_data / "golden" / "perplexity.json")["results"]
    [expected] = [result for result in results if result["model"] == f"{name}.gguf"]
    text = (shared_data / "text" / expected["text"]).read_text()
    tokenizer = Tokenizer.from_gguf(bench.weights.file)
    assert tokenizer.bos_id is not None
    got = perplexity(bench, tokenizer.encode(text), expected["n_ctx"], tokenizer.bos_id)
    assert got == pytest.approx(expected["ppl"], rel=0.005 if name in FLOATS else 0.02)
