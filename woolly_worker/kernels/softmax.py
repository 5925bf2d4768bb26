"""The softmax of attention, kept up while positions go by, and the sum of its pieces.

A row of sums is what a query has gathered: f32[padded_dim] of weighted values, then the largest score so far and the
total of the weights, all weights being exp(score - largest).

Source: Dao et al. 2022 (online softmax), Milakov & Gimelshein 2018. Accuracy: a weight is off by 2e-7 of itself (`exp`)
for every time that a larger score came up behind it, and once more.
"""

import numpy as np

from woolly_worker.kernels.exponential import exp
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.kv.blocks import ROUND_TOKENS
from woolly_worker.kernels.simd import (
    add,
    first_lane,
    first_lanes_or,
    fma,
    hmax,
    hsum,
    load_f32,
    load_f32x16,
    maximum,
    mul,
    splat_f32x16,
    store,
    store_f32,
    store_first,
    sub,
    zero_f32x16,
)

NOTHING = np.float32(-np.inf)  # the largest of no scores


@inline
def clear_row(row, padded_dim):
    for k in range(0, padded_dim, 16):
        store(row + 4 * k, zero_f32x16())
    store_f32(row + 4 * padded_dim, NOTHING)
    store_f32(row + 4 * padded_dim + 4, np.float32(0))


@inline
def _shrink(row, padded_dim, largest):
    """A larger score came up: all that was summed so far weighs less."""
    factor = exp(splat_f32x16(load_f32(row + 4 * padded_dim) - largest))
    for k in range(0, padded_dim, 16):
        store(row + 4 * k, mul(load_f32x16(row + 4 * k), factor))
    store_f32(row + 4 * padded_dim, largest)
    store_f32(row + 4 * padded_dim + 4, load_f32(row + 4 * padded_dim + 4) * first_lane(factor))


@subroutine
def weigh(scores, n_seen, row, padded_dim):
    """A round's scores of one query become weights, in place.

    scores  f32[ROUND_TOKENS]; the query sees the first n_seen positions, at least one, maybe more than a round has
    What lies behind the last vector of 16 positions with one that is seen is left as it is.
    """
    n = min(n_seen, ROUND_TOKENS)
    if n % 16:
        last = scores + 4 * (n - n % 16)
        store(last, first_lanes_or(load_f32x16(last), n % 16, NOTHING))
    most = load_f32x16(scores)
    for p in range(16, n, 16):
        most = maximum(most, load_f32x16(scores + 4 * p))
    here = hmax(most)
    if here > load_f32(row + 4 * padded_dim):
        _shrink(row, padded_dim, here)
    largest = splat_f32x16(load_f32(row + 4 * padded_dim))
    total = zero_f32x16()
    for p in range(0, n, 16):
        weight = exp(sub(load_f32x16(scores + 4 * p), largest))
        total = add(total, weight)
        store(scores + 4 * p, weight)
    store_f32(row + 4 * padded_dim + 4, load_f32(row + 4 * padded_dim + 4) + hsum(total))


@subroutine
def merge_row(piece, row, padded_dim):
    """row += piece: the rows of a piece of the positions and of all pieces before it."""
    largest, more = load_f32(row + 4 * padded_dim), load_f32(piece + 4 * padded_dim)
    if more > largest:
        _shrink(row, padded_dim, more)
        largest = more
    factor = exp(splat_f32x16(more - largest))
    for k in range(0, padded_dim, 16):
        store(row + 4 * k, fma(load_f32x16(piece + 4 * k), factor, load_f32x16(row + 4 * k)))
    total = load_f32(row + 4 * padded_dim + 4) + load_f32(piece + 4 * padded_dim + 4) * first_lane(factor)
    store_f32(row + 4 * padded_dim + 4, total)


@subroutine
def write_mean(row, padded_dim, out, head_dim):
    """The weighted mean of values: sums by total, f32[head_dim]."""
    inverse = splat_f32x16(np.float32(1) / load_f32(row + 4 * padded_dim + 4))
    for k in range(0, head_dim, 16):
        store_first(out + 4 * k, mul(load_f32x16(row + 4 * k), inverse), head_dim - k)
