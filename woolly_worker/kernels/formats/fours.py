"""Rows times one token for the formats of 256 weights: four quant blocks at a time.

    acc += d[i] * dx[i] * (integer sum of block i)          block after block, and behind each,
    acc -= dmin[i] * dx[i] * (integer sum of its mins)      where a format's weights have minima

A single row is bound by the number of instructions as much as by memory, and most of those are spent on what happens
once in a block. So four blocks share what they can: scales are unpacked together, and sums over lanes are made
together. What is left of a block are its *terms*: d and the sum, or (d, dmin) in one word and two sums.

`row_dot` adds a row's terms up lane by lane. Where less than four blocks are left, the last one stands in for those
that are missing, and their lanes are not used.

`rows_of_one_token` puts the terms of sixteen rows down and turns them on their side: the same steps in the same order,
with a row in each lane. Where less than four blocks are left, the last four are taken, some of them a second time; a
row that has less goes through `row_dot`.
"""

from typing import Any, NamedTuple

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    N_COLS,
    OUT,
    PANEL_ROWS,
    ROW_BYTES,
    WEIGHTS,
    X,
    rows_one_by_one,
)
from woolly_worker.kernels.simd import (
    add,
    as_f32x16,
    fma,
    fma_scalar,
    gather_columns,
    high_halves_f32,
    lane,
    load_f32,
    load_f32x16,
    load_four_f32,
    low_halves_f32,
    mul,
    negate,
    splat_f32x16,
    store,
    sums_of_four,
    to_f32,
    vector_of,
    zero_f32x16,
)
from woolly_worker.kernels.step import field

BLOCK = 256
PARTS = 1
WORD = 4  # bytes
MOST_WORDS = 3  # of a block's terms


class InFours(NamedTuple):
    """One token's ways through a format's rows."""

    row_dot: Any
    rows_of_one_token: Any


def terms_bytes(n_cols: int) -> int:
    """Scratch for the terms of sixteen rows."""
    return PANEL_ROWS * MOST_WORDS * WORD * (n_cols // BLOCK + 3)


@inline
def _run_bytes(n_blocks):
    """One word of each block, and of as many as make them fours."""
    return (n_blocks + 3) // 4 * 4 * WORD


@inline
def _four_scales_of(x0, x1, x2, x3):
    return load_four_f32(x0 + Q8K_SCALE, x1 + Q8K_SCALE, x2 + Q8K_SCALE, x3 + Q8K_SCALE)


def _both_ways(block_bytes: int, n_words: int, four: Any, add_lanes: Any, put_down: Any, add_rows: Any) -> InFours:
    """What a format with minima and one without have in common: which four blocks are taken, and where terms lie.

    four(b0, b1, b2, b3, x0, x1, x2, x3) -> terms           of four blocks
    add_lanes(acc, terms, dx, n) -> acc                     the first n of them, or all if n is more, one after the
                                                            other; dx f32x4 are the activations' scales
    put_down(terms, place, run_bytes)                       each of their n_words in a run of its own
    add_rows(acc, x, place, run_bytes, stride, n) -> acc    add_lanes for sixteen rows, one per lane; a row's terms lie
                                                            `stride` bytes behind those of the row before

    Scratch of rows_of_one_token is [16 rows][n_words][blocks] words.
    """
    assert n_words <= MOST_WORDS

    @inline
    def row_dot(row, x, n_cols):
        acc = np.float32(0)
        n_blocks = n_cols // BLOCK
        last = n_blocks - 1
        for i in range(0, n_blocks, 4):
            j, k, m = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            x0, x1, x2, x3 = x + i * Q8K_BYTES, x + j * Q8K_BYTES, x + k * Q8K_BYTES, x + m * Q8K_BYTES
            b0, b1, b2, b3 = row + i * block_bytes, row + j * block_bytes, row + k * block_bytes, row + m * block_bytes
            terms = four(b0, b1, b2, b3, x0, x1, x2, x3)
            acc = add_lanes(acc, terms, _four_scales_of(x0, x1, x2, x3), n_blocks - i)
        return acc

    @inline
    def rows_of_one_token(args, first, last, scratch):
        n_blocks, row_bytes, x = field(args, N_COLS) // BLOCK, field(args, ROW_BYTES), field(args, X)
        stop = last - (last - first) % PANEL_ROWS if n_blocks >= 4 else first
        run_bytes = _run_bytes(n_blocks)
        stride = n_words * run_bytes
        for r in range(first, stop, PANEL_ROWS):
            rows, out = field(args, WEIGHTS) + r * row_bytes, field(args, OUT) + 4 * r
            for row in range(PANEL_ROWS):
                here, place = rows + row * row_bytes, scratch + row * stride
                for i in range(0, n_blocks, 4):
                    j = min(i, n_blocks - 4)
                    b, y = here + j * block_bytes, x + j * Q8K_BYTES
                    b1, b2, b3 = b + block_bytes, b + 2 * block_bytes, b + 3 * block_bytes
                    terms = four(b, b1, b2, b3, y, y + Q8K_BYTES, y + 2 * Q8K_BYTES, y + 3 * Q8K_BYTES)
                    put_down(terms, place + j * WORD, run_bytes)
            total = zero_f32x16()
            for i in range(0, n_blocks, 4):
                total = add_rows(total, x + i * Q8K_BYTES, scratch + i * WORD, run_bytes, stride, n_blocks - i)
            if field(args, ADD_TO_OUT):
                total = add(load_f32x16(out), total)
            store(out, total)
        rows_one_by_one(args, stop, last, 1, row_dot)

    return InFours(row_dot, rows_of_one_token)


@inline
def _scale_of(x, k):
    return splat_f32x16(load_f32(x + k * Q8K_BYTES + Q8K_SCALE))


@inline
def _add_lanes(acc, terms, dx, n):
    factors, sums = mul(terms[0], dx), to_f32(terms[1])
    acc = fma_scalar(lane(factors, 0), lane(sums, 0), acc)
    if n > 1:
        acc = fma_scalar(lane(factors, 1), lane(sums, 1), acc)
    if n > 2:
        acc = fma_scalar(lane(factors, 2), lane(sums, 2), acc)
    if n > 3:
        acc = fma_scalar(lane(factors, 3), lane(sums, 3), acc)
    return acc


@inline
def _put_down(terms, place, run_bytes):
    store(place, terms[0])
    store(place + run_bytes, terms[1])


@inline
def _add_block(acc, d, dx, sums):
    return fma(mul(as_f32x16(d), dx), to_f32(sums), acc)


@inline
def _add_rows(acc, x, place, run_bytes, stride, n):
    d, sums = gather_columns(place, stride), gather_columns(place + run_bytes, stride)
    acc = _add_block(acc, vector_of(d, 0), _scale_of(x, 0), vector_of(sums, 0))
    if n > 1:
        acc = _add_block(acc, vector_of(d, 1), _scale_of(x, 1), vector_of(sums, 1))
    if n > 2:
        acc = _add_block(acc, vector_of(d, 2), _scale_of(x, 2), vector_of(sums, 2))
    if n > 3:
        acc = _add_block(acc, vector_of(d, 3), _scale_of(x, 3), vector_of(sums, 3))
    return acc


def in_fours(block_bytes: int, scaled_sums: Any, four_scales: Any) -> InFours:
    """Both ways from what a format knows of its blocks:

    scaled_sums(block, x) -> i32x16         lanes whose sum is the block's, x its activations' record
    four_scales(b0, b1, b2, b3) -> f32x4    d of four blocks
    """

    @inline
    def four(b0, b1, b2, b3, x0, x1, x2, x3):
        sums = sums_of_four(scaled_sums(b0, x0), scaled_sums(b1, x1), scaled_sums(b2, x2), scaled_sums(b3, x3))
        return four_scales(b0, b1, b2, b3), sums

    return _both_ways(block_bytes, 2, four, _add_lanes, _put_down, _add_rows)


@inline
def _add_lanes_with_mins(acc, terms, dx, n):
    """Each block's product, and behind it its minimum's."""
    heads, sums, mins = terms[0], to_f32(terms[1]), to_f32(terms[2])
    factors, min_factors = mul(low_halves_f32(heads), dx), mul(negate(high_halves_f32(heads)), dx)
    acc = fma_scalar(lane(min_factors, 0), lane(mins, 0), fma_scalar(lane(factors, 0), lane(sums, 0), acc))
    if n > 1:
        acc = fma_scalar(lane(min_factors, 1), lane(mins, 1), fma_scalar(lane(factors, 1), lane(sums, 1), acc))
    if n > 2:
        acc = fma_scalar(lane(min_factors, 2), lane(mins, 2), fma_scalar(lane(factors, 2), lane(sums, 2), acc))
    if n > 3:
        acc = fma_scalar(lane(min_factors, 3), lane(mins, 3), fma_scalar(lane(factors, 3), lane(sums, 3), acc))
    return acc


@inline
def _put_down_with_mins(terms, place, run_bytes):
    store(place, terms[0])
    store(place + run_bytes, terms[1])
    store(place + 2 * run_bytes, terms[2])


@inline
def _add_block_with_min(acc, head, dx, sums, mins):
    acc = fma(mul(low_halves_f32(head), dx), to_f32(sums), acc)
    return fma(mul(negate(high_halves_f32(head)), dx), to_f32(mins), acc)


@inline
def _add_rows_with_mins(acc, x, place, run_bytes, stride, n):
    heads, sums = gather_columns(place, stride), gather_columns(place + run_bytes, stride)
    mins = gather_columns(place + 2 * run_bytes, stride)
    acc = _add_block_with_min(acc, vector_of(heads, 0), _scale_of(x, 0), vector_of(sums, 0), vector_of(mins, 0))
    if n > 1:
        acc = _add_block_with_min(acc, vector_of(heads, 1), _scale_of(x, 1), vector_of(sums, 1), vector_of(mins, 1))
    if n > 2:
        acc = _add_block_with_min(acc, vector_of(heads, 2), _scale_of(x, 2), vector_of(sums, 2), vector_of(mins, 2))
    if n > 3:
        acc = _add_block_with_min(acc, vector_of(heads, 3), _scale_of(x, 3), vector_of(sums, 3), vector_of(mins, 3))
    return acc


def in_fours_with_mins(block_bytes: int, four: Any) -> InFours:
    """The same where weights are d * q - dmin * m. Four blocks may share even the unpacking of their scales:

    four(b0, b1, b2, b3, x0, x1, x2, x3) -> (heads i32x4, sums i32x4, sums of mins i32x4)

    A head is d as f16 in its lower half, dmin in its upper one.
    """
    return _both_ways(block_bytes, 3, four, _add_lanes_with_mins, _put_down_with_mins, _add_rows_with_mins)
