"""Every stage of the sampler chain alone, against its definition written as plainly as possible."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from woolly_worker.engine import stages

Floats = NDArray[Any]

# Few different values, so that ties are everywhere; and any value at all.
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=400)
wide = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=400)
logits_ = st.one_of(tied, wide).map(lambda values: np.array(values, dtype=np.float32))


def weights_of(logits: Floats, temperature: float = 1.0) -> Floats:
    out = np.empty(len(logits), dtype=np.float32)
    stages.softmax_weights(logits, temperature, out, np.empty((2, len(logits)), dtype=np.float32))
    return out


def by_value(values: Floats) -> list[int]:
    """Indices, the largest value first, the lowest index among equals."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def test_repetition_penalty() -> None:
    values = np.array([2.0, -2.0, 0.0])
    assert stages.penalize_repetition(values, 2.0).tolist() == [1.0, -4.0, 0.0]
    assert stages.penalize_repetition(values, 0.5).tolist() == [4.0, -1.0, 0.0]


def test_presence_penalty() -> None:
    values, counts = np.array([1.0, 1.0, 1.0]), np.array([0.0, 1.0, 5.0])
    assert stages.penalize_presence(values, counts, 0.5).tolist() == [1.0, 0.5, 0.5]
    assert stages.penalize_presence(values, counts, -0.5).tolist() == [1.0, 1.5, 1.5]


def test_frequency_penalty() -> None:
    values, counts = np.array([1.0, 1.0, 1.0]), np.array([0.0, 1.0, 4.0])
    assert stages.penalize_frequency(values, counts, 0.25).tolist() == [1.0, 0.75, 0.0]


def test_extremes_saturate() -> None:
    assert stages.bounded(np.array([1e300, -math.inf, 3.0])).tolist() == [1e38, -1e38, 3.0]


@given(logits_)
def test_greedy_takes_the_lowest_of_the_best(logits: Floats) -> None:
    assert stages.greedy(logits) == by_value(logits)[0]


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000, 16384, 16385, 40000])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0])
def test_softmax_weights(n: int, temperature: float) -> None:
    logits = np.random.default_rng(n).normal(0, 5, n).astype(np.float32)
    weights = weights_of(logits, temperature)
    powers = (logits.astype(np.float64) - logits.max()) / temperature
    expected = np.exp(powers)
    assert weights.max() == 1
    # The stated accuracy: 2e-7, and the rounding of the exponent in float32.
    tolerance = expected * (2e-7 + 1.8e-7 * np.abs(powers)) + 2.0**-123
    assert np.all(np.abs(weights - expected) <= tolerance)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-9, 1e-3, 10.0])
def test_softmax_weights_at_extremes(temperature: float) -> None:
    logits = np.array([1e38, 3.0, -1e38, 1e38, np.float32(9.9999e37)], dtype=np.float32)
    weights = weights_of(logits, temperature)
    assert weights[0] == weights[3] == 1
    assert np.all(weights[[1, 2, 4]] == np.float32(2.0**-124))
    assert np.all(weights_of(np.full(70, -7.5, dtype=np.float32), temperature) == 1)


def test_softmax_weights_do_not_depend_on_the_neighbours() -> None:
    """A weight is the same whatever its place in the row: no vector tail computes differently."""
    logits = np.random.default_rng(0).normal(0, 4, 1000).astype(np.float32)
    logits[500] = 30
    whole = weights_of(logits)
    for start, end in ((0, 501), (499, 1000), (500, 517), (483, 502)):
        assert np.array_equal(weights_of(logits[start:end].copy()), whole[start:end])


@given(logits_, st.integers(1, 450))
def test_top_k(logits: Floats, k: int) -> None:
    assert stages.top_k(logits, k).tolist() == sorted(by_value(logits)[:k])


@pytest.mark.parametrize("k", [1, 40, 499, 500, 501, 31999, 32000])
def test_top_k_of_a_vocabulary(k: int) -> None:
    logits = np.random.default_rng(k).normal(0, 3, 32000).astype(np.float32)
    logits[::7] = logits[3]
    expected = np.sort(np.argsort(-logits, kind="stable")[:k])
    assert np.array_equal(stages.top_k(logits, k), expected)


@given(logits_, st.floats(0.01, 0.999))
def test_top_p(logits: Floats, p: float) -> None:
    weights = weights_of(logits)
    order, total = by_value(weights), math.fsum(weights.tolist())
    n, share = 0, 0.0
    while n < len(order) and share < p:
        share = math.fsum(weights[order[: n + 1]].tolist()) / total
        n += 1
    kept = stages.top_p(weights, p).tolist()
    # Sums in float64 may put a border that is exactly met on either side.
    assert kept == sorted(order[: len(kept)])
    assert abs(len(kept) - n) <= (1 if abs(share - p) < 1e-9 or _meets(weights, order, p, total) else 0)


def _meets(weights: Floats, order: list[int], p: float, total: float) -> bool:
    shares = np.cumsum(weights[order], dtype=np.float64) / total
    return bool(np.any(np.abs(shares - p) < 1e-9))


def test_top_p_keeps_the_token_that_crosses_the_border() -> None:
    weights = np.array([0.125, 1.0, 0.5, 0.375], dtype=np.float32)  # shares 1/16, 1/2, 1/4, 3/16
    assert stages.top_p(weights, 0.5).tolist() == [1]
    assert stages.top_p(weights, 0.51).tolist() == [1, 2]
    assert stages.top_p(weights, 0.76).tolist() == [1, 2, 3]
    assert stages.top_p(weights, 0.999).tolist() == [0, 1, 2, 3]


@given(logits_, st.floats(0, 1))
def test_min_p(logits: Floats, share: float) -> None:
    weights = weights_of(logits)
    expected = [i for i, weight in enumerate(weights) if weight >= np.float32(share) * weights.max()]
    assert stages.min_p(weights, share).tolist() == expected


@given(logits_, st.floats(2.0**-53, 1))
def test_draw_inverts_the_distribution_function(logits: Floats, u: float) -> None:
    weights = weights_of(logits)
    i = stages.draw(weights, u)
    total = math.fsum(weights.tolist())
    before, behind = math.fsum(weights[:i].tolist()) / total, math.fsum(weights[: i + 1].tolist()) / total
    assert before - 1e-12 <= u <= behind + 1e-12


@pytest.mark.parametrize("n", [1, 64, 65, 1000])
def test_draw_reaches_both_ends_but_nothing_without_weight(n: int) -> None:
    assert stages.draw(np.ones(n, dtype=np.float32), 2.0**-53) == 0
    assert stages.draw(np.ones(n, dtype=np.float32), 1.0) == n - 1
    weights = np.full(n, 2.0**-124, dtype=np.float32)
    weights[n // 2] = 1
    for u in (2.0**-53, 0.5, 1.0):
        assert stages.draw(weights, u) == n // 2


def test_draw_gives_each_token_its_share() -> None:
    weights = np.array([1.0, 0.5, 0.25, 0.25], dtype=np.float32)
    drawn = [stages.draw(weights, (i + 1) / 1000) for i in range(1000)]
    assert [drawn.count(i) for i in range(4)] == [500, 250, 125, 125]
