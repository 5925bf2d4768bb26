"""The stages of the sampler chain: small functions over NumPy arrays, each of them tested alone.

None of them knows a request, a sequence or a random number. Results never depend on how NumPy partitions or on what
the CPU can do: sets come back in ascending token id, ties go to the lowest id, and the one transcendental function is
computed here from additions and multiplications, which round the same way everywhere.

`values` are the logits of some tokens, float64. `weights` are probabilities up to a common factor, float32, the
largest of them exactly 1.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Ids = NDArray[np.intp]

SUM_TOKENS = 64  # tokens whose weights are added up before a draw looks at single ones
LARGEST_LOGIT = 1e38
CHUNK_TOKENS = 16384  # 64 KB of float32 per scratch array: the passes of `softmax_weights` stay in L2

# 2**f = 1 + f * (c0 + c1 f + ...) for |f| <= 1/2; least squares over Chebyshev nodes, relative error 2e-7 in float32.
_EXP2 = tuple(
    np.float32(c)
    for c in (
        0.6931471824645996,
        0.24022650718688965,
        0.055503569543361664,
        0.009618056938052177,
        0.0013390866806730628,
        0.00015461447765119374,
    )
)
_BUCKET_SHIFT = 19  # leaves 8 bits of exponent and 4 of mantissa
_ROUNDER = np.float32(3 << 22)  # added to |y| < 2**21, it leaves the nearest integer in the low bits
_LOWEST_EXPONENT = np.float32(-124)  # below it 2**y would be denormal; such weights are 2**-124


def penalize_repetition(values: Floats, penalty: float) -> Floats:
    """Of tokens seen in prompt or completion: positive logits are divided, the others multiplied (Keskar 2019)."""
    penalized: Floats = np.where(values > 0, values / penalty, values * penalty)
    return penalized


def penalize_presence(values: Floats, counts: Floats, penalty: float) -> Floats:
    """Subtract `penalty` from tokens that were generated at least once."""
    return values - np.where(counts > 0, penalty, 0.0)


def penalize_frequency(values: Floats, counts: Floats, penalty: float) -> Floats:
    """Subtract `penalty` for each time a token was generated."""
    return values - penalty * counts


def bounded(values: Floats) -> Floats:
    """Within float32, with room for differences: extreme penalties saturate, they do not overflow."""
    clipped: Floats = np.clip(values, -LARGEST_LOGIT, LARGEST_LOGIT)
    return clipped


def greedy(logits: Floats) -> int:
    """The token with the largest logit, the lowest id among equals."""
    return int(logits.argmax())


def softmax_weights(logits: Floats, temperature: float, out: Floats, scratch: Floats) -> None:
    """exp((logit - max) / temperature) into `out`, float32, in a fixed sequence of operations.

    logits   (n,) float32          read
    out      (n,) float32          written
    scratch  (2, >= min(n, 16384)) float32

    Accuracy: relative error at most 2e-7, and 1.8e-7 * |ln weight| for three roundings of the exponent; weights stop at
    2**-124.
    """
    highest = logits.max()
    # The factor may be huge at tiny temperatures; then all but the best are lowest, as they should be.
    factor = np.float32(min(1 / (temperature * math.log(2)), 1e30))
    for start in range(0, len(logits), CHUNK_TOKENS):
        power = out[start : start + CHUNK_TOKENS]
        n = len(power)
        y, whole = scratch[0, :n], scratch[1, :n]
        np.subtract(logits[start : start + n], highest, out=y)
        np.maximum(y, np.float32(_LOWEST_EXPONENT / factor), out=y)
        np.multiply(y, factor, out=y)
        np.maximum(y, _LOWEST_EXPONENT, out=y)
        np.add(y, _ROUNDER, out=whole)
        np.subtract(whole, _ROUNDER, out=power)
        np.subtract(y, power, out=y)  # the fraction, exact
        np.multiply(y, _EXP2[-1], out=power)
        for c in _EXP2[-2::-1]:
            np.add(power, c, out=power)
            np.multiply(power, y, out=power)
        np.add(power, np.float32(1), out=power)
        exponent = whole.view(np.int32)
        np.left_shift(exponent, 23, out=exponent)  # the integer in the low bits becomes the exponent's increment
        bits = power.view(np.int32)
        np.add(bits, exponent, out=bits)


def top_k(logits: Floats, k: int) -> Ids:
    """The `k` tokens with the largest logits, in ascending id; among equals at the border, the lowest ids."""
    n = len(logits)
    if k >= n:
        return np.arange(n)
    candidates = _at_least_k_largest(logits, k)
    values = logits[candidates]
    border = np.partition(values, len(values) - k)[len(values) - k]
    keep = values > border
    ties = np.flatnonzero(values == border)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    return np.compress(keep, candidates)


def _at_least_k_largest(logits: Floats, k: int) -> Ids:
    """A small set, in ascending id, that contains every token whose logit is among the `k` largest.

    Each of k columns has a token at least as large as the k-th largest column maximum, so that is a lower bound for
    the k-th largest logit: two cheap passes instead of a partition of the vocabulary.
    """
    n_columns = len(logits) // 64
    if n_columns < k:
        return np.arange(len(logits))
    maxima = logits[: 64 * n_columns].reshape(64, n_columns).max(axis=0)
    bound = np.partition(maxima, n_columns - k)[n_columns - k]
    return np.flatnonzero(logits >= bound)


def top_p(weights: Floats, p: float) -> Ids:
    """Indices of the fewest, most probable tokens that have a share of at least `p` together, in ascending order.

    The token that crosses the border is in. Only tokens near the border are sorted: the others are counted by
    buckets 1/16 of an octave wide, which the leading bits of a positive float number in order.
    """
    buckets = weights.view(np.int32) >> _BUCKET_SHIFT
    from_top = np.bincount(buckets, weights=weights)[::-1].cumsum()
    wanted = p * from_top[-1]
    above = int(np.searchsorted(from_top, wanted))  # how many buckets are in as a whole
    border = len(from_top) - 1 - above
    rest = wanted - (from_top[above - 1] if above else 0.0)

    keep = buckets > border
    candidates = np.flatnonzero(buckets == border)
    candidates = candidates[np.argsort(-weights[candidates], kind="stable")]
    n = int(np.searchsorted(np.cumsum(weights[candidates], dtype=np.float64), rest)) + 1
    keep[candidates[:n]] = True
    return np.flatnonzero(keep)


def min_p(weights: Floats, share: float) -> Ids:
    """Indices of tokens with at least `share` of the best one's probability, in ascending order."""
    return np.flatnonzero(weights >= share * weights.max())


def block_sums(weights: Floats) -> Floats:
    """Sums of 64 weights each, float64; the last one may be of fewer."""
    n_full = len(weights) // SUM_TOKENS * SUM_TOKENS
    sums = weights[:n_full].reshape(-1, SUM_TOKENS).sum(axis=1, dtype=np.float64)
    return sums if n_full == len(weights) else np.append(sums, weights[n_full:].sum(dtype=np.float64))


def draw(weights: Floats, u: float) -> int:
    """The index at the share `u`, in (0, 1], of the cumulated weights: the inverse of the distribution function."""
    cumulated = block_sums(weights).cumsum()
    at = u * cumulated[-1]
    block = int(np.searchsorted(cumulated, at))
    within = np.cumsum(weights[block * SUM_TOKENS : (block + 1) * SUM_TOKENS], dtype=np.float64)
    # Two ways to add up the same block may differ in the last bit: never go beyond its last weight that counts.
    rest = min(at - (cumulated[block - 1] if block else 0.0), within[-1])
    return block * SUM_TOKENS + int(np.searchsorted(within, rest))
