"""The loops of the i-quants with grids: the panel of sixteen rows, the row dot, the row as floats.

A format hands in how its bytes are read (see `grids`):

    read_block(block) -> notes, signs, scales    a quant block, sorted out
    weights(notes, signs, k) -> i8x64            weights 64 k .. 64 k + 64 of it, as unsigned bytes OFFSET + w
    super_scale(block) -> f32

The panel holds, for each block, OFFSET + w as [64 groups][16 rows][4 columns] u8, the super-scales, the sub-scales of
every 16 or 32 weights as i32 x 16 rows, and last what takes the offset away: pairs of -OFFSET * s as i16.

Integers: 256 * 126 * 127 * 31 + 64 * 256 * 127 * 31 < 2**28.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import CACHE_LINE_BYTES, Q8K_BYTES, Q8K_SCALE, Q8K_SUMS16, Q8K_SUMS32, Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.fours import BLOCK, PARTS, in_fours
from woolly_worker.kernels.formats.grids import OFFSET
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import dot_block_times
from woolly_worker.kernels.formats.signed_planes import scales_with, signed_unit, store_products
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import FACTORS_BYTES, MatrixUnit
from woolly_worker.kernels.simd import (
    accumulate_each,
    add,
    and_bits,
    dot_pairs,
    dot_times,
    dot_u8i8,
    four_f32,
    gather_columns,
    load_f32x16,
    load_i8x16,
    load_i8x64,
    load_i16x16,
    load_i32,
    mul,
    narrow_to_i8,
    prefetch,
    shift_left,
    sign_extend,
    splat_f32x16,
    splat_i32x16,
    spread,
    spread_factors,
    stack_bytes,
    store,
    store_f32,
    sub,
    to_f32,
    to_factors,
    vector_of,
    zero_extend,
    zero_i32x16,
    zeros_i32_like,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS

PANEL_D = 4096
PANEL_SCALES = PANEL_D + 64
PANEL_PAIRS_16 = PANEL_SCALES + 16 * 64
PANEL_PAIRS_32 = PANEL_SCALES + 8 * 64
PANEL_BLOCK_BYTES_16 = PANEL_PAIRS_16 + 8 * 64
PANEL_BLOCK_BYTES_32 = PANEL_PAIRS_32 + 4 * 64

assert OFFSET == 64  # the shifts by 6 below
LARGEST = 126  # of OFFSET + w


@inline
def _offsets(low, high):
    """-OFFSET times two sub-scales, as a pair of i16."""
    return sub(and_bits(sub(zero_i32x16(), shift_left(low, 6)), 0xFFFF), shift_left(high, 22))


@inline
def store_scales_16(rows, panel):
    """Sixteen sub-scales for each of sixteen rows, 64 bytes a row, into the panel."""
    for j in range(4):
        s = gather_columns(rows + 16 * j, 64)
        place, pairs = panel + PANEL_SCALES + 256 * j, panel + PANEL_PAIRS_16 + 128 * j
        store(place, vector_of(s, 0))
        store(place + 64, vector_of(s, 1))
        store(place + 128, vector_of(s, 2))
        store(place + 192, vector_of(s, 3))
        store(pairs, _offsets(vector_of(s, 0), vector_of(s, 1)))
        store(pairs + 64, _offsets(vector_of(s, 2), vector_of(s, 3)))


@inline
def store_scales_32(rows, panel):
    """The same where two neighbours are equal: every other one is kept."""
    for j in range(4):
        s = gather_columns(rows + 16 * j, 64)
        store(panel + PANEL_SCALES + 128 * j, vector_of(s, 0))
        store(panel + PANEL_SCALES + 128 * j + 64, vector_of(s, 2))
        store(panel + PANEL_PAIRS_32 + 64 * j, _offsets(vector_of(s, 0), vector_of(s, 2)))


@inline
def _store_weights(place, notes, signs, weights):
    store(place, weights(notes, signs, 0))
    store(place + 64, weights(notes, signs, 1))
    store(place + 128, weights(notes, signs, 2))
    store(place + 192, weights(notes, signs, 3))


@inline
def _ask_for_a_row(ahead, block_bytes):
    """A sixteenth of the next sixteen rows' share, see q4_k."""
    for line in range(block_bytes // 64 + 1):
        prefetch(ahead + 64 * line)


@inline
def unpack_rows(block, row_bytes, ahead, block_bytes, panel, read_block, weights, super_scale, store_scales):
    """One block of sixteen rows into a panel: row by row onto the stack, then sixteen columns at a time."""
    bytes_of_rows, scales_of_rows = stack_bytes(4096), stack_bytes(1024)  # 256 weights and 16 sub-scales for each
    for r in range(16):
        _ask_for_a_row(ahead + block_bytes * r, block_bytes)
        row = block + r * row_bytes
        notes, signs, scales = read_block(row)
        _store_weights(bytes_of_rows + 256 * r, notes, signs, weights)
        store(scales_of_rows + 64 * r, scales)
        store_f32(panel + PANEL_D + 4 * r, super_scale(row))
    for j in range(16):
        q = gather_columns(bytes_of_rows + 16 * j, 256)
        store(panel + 256 * j, vector_of(q, 0))
        store(panel + 256 * j + 64, vector_of(q, 1))
        store(panel + 256 * j + 128, vector_of(q, 2))
        store(panel + 256 * j + 192, vector_of(q, 3))
    store_scales(scales_of_rows, panel)


_dot_16, _dot_32 = dot_block_times(16, LARGEST), dot_block_times(8, LARGEST)


@inline
def multiply_block_16(panel, x, i, x_stride, acc):
    """acc[t] += panel . x[t], with a sub-scale for every 16 weights."""
    x += i * Q8K_BYTES
    total = dot_pairs(zeros_i32_like(acc), panel + PANEL_PAIRS_16, x + Q8K_SUMS16, x_stride, 8)
    total = _dot_16(total, panel, panel + PANEL_SCALES, x, x_stride)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)


@inline
def multiply_block_32(panel, x, i, x_stride, acc):
    """acc[t] += panel . x[t], with a sub-scale for every 32 weights."""
    x += i * Q8K_BYTES
    total = dot_pairs(zeros_i32_like(acc), panel + PANEL_PAIRS_32, x + Q8K_SUMS32, x_stride, 4)
    total = _dot_32(total, panel, panel + PANEL_SCALES, x, x_stride)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)


if IN_SHORTS:

    @inline
    def _dot(acc, w, x, scales):
        return dot_times(acc, w, load_i8x64(x), scales, LARGEST)

    @inline
    def _dot_weights(x, notes, signs, scales, weights):
        zero, s = zero_i32x16(), to_factors(scales)
        a = _dot(zero, weights(notes, signs, 0), x, spread_factors(s, "0000111122223333"))
        a = _dot(a, weights(notes, signs, 1), x + 64, spread_factors(s, "4444555566667777"))
        b = _dot(zero, weights(notes, signs, 2), x + 128, spread_factors(s, "88889999aaaabbbb"))
        return add(a, _dot(b, weights(notes, signs, 3), x + 192, spread_factors(s, "ccccddddeeeeffff")))

else:

    @inline
    def _dot(w, x):
        return dot_u8i8(zero_i32x16(), w, load_i8x64(x), LARGEST)

    @inline
    def _dot_weights(x, notes, signs, scales, weights):
        s = mul(_dot(weights(notes, signs, 0), x), spread(scales, "0000111122223333"))
        s = add(s, mul(_dot(weights(notes, signs, 1), x + 64), spread(scales, "4444555566667777")))
        s = add(s, mul(_dot(weights(notes, signs, 2), x + 128), spread(scales, "88889999aaaabbbb")))
        return add(s, mul(_dot(weights(notes, signs, 3), x + 192), spread(scales, "ccccddddeeeeffff")))


@inline
def scaled_sums_of(block, x, block_bytes, read_block, weights):
    """Sixteen lanes of partial sums, the offset taken away."""
    ask_ahead(block)
    if block_bytes > CACHE_LINE_BYTES:
        ask_ahead(block + CACHE_LINE_BYTES)
    notes, signs, scales = read_block(block)
    offset = mul(scales, sign_extend(load_i16x16(x + Q8K_SUMS16)))
    return sub(_dot_weights(x, notes, signs, scales, weights), shift_left(offset, 6))


@inline
def numbers_of_row(row, n_cols, out, block_bytes, read_block, weights, super_scale):
    """One row as f32: (super-scale * s) * w. ggml's own operations, but for factors of two, which round nothing."""
    bytes_of_row, scales_of_row = stack_bytes(256), stack_bytes(64)
    for i in range(n_cols // BLOCK):
        block = row + i * block_bytes
        d = super_scale(block)
        notes, signs, scales = read_block(block)
        _store_weights(bytes_of_row, notes, signs, weights)
        store(scales_of_row, scales)
        for j in range(16):
            factor = splat_f32x16(d * np.float32(load_i32(scales_of_row + 4 * j)))
            w = sub(zero_extend(load_i8x16(bytes_of_row + 16 * j)), splat_i32x16(np.int32(OFFSET)))
            store(out + 4 * (BLOCK * i + 16 * j), mul(factor, to_f32(w)))


# Where the rows of a block wait, behind its factors, for the other half of them: weights, then sub-scales, a byte each.
_WEIGHTS = 64
_SCALES = _WEIGHTS + 4096
assert _SCALES + 256 <= FACTORS_BYTES


def unit_of_grid(block_bytes: int, read_block: Any, weights: Any, super_scale: Any) -> MatrixUnit:
    """For the matrix unit: eight rows at a time, then half of the columns at a time."""
    scales_of = scales_with(offset=OFFSET)

    @inline
    def unpack_factors(block, row_bytes, factors):
        for r in range(16):
            store_f32(factors + 4 * r, super_scale(block + r * row_bytes))
        return factors

    def rows(first: int) -> Any:
        @inline
        def unpack_rows_from(block, row_bytes, factors, ahead, planes):
            for r in range(first, first + 8):
                _ask_for_a_row(ahead + block_bytes * r, block_bytes)
                notes, signs, scales = read_block(block + r * row_bytes)
                _store_weights(factors + _WEIGHTS + 256 * r, notes, signs, weights)
                store(factors + _SCALES + 16 * r, narrow_to_i8(scales))

        return unpack_rows_from

    def column(j: int) -> Any:
        scales_of_j = scales_of(j)

        @inline
        def unpack_column(factors, scales, planes):
            q, of_j, place = gather_columns(factors + _WEIGHTS + 16 * j, 256), scales_of_j(scales), planes + 256 * j
            store_products(vector_of(q, 0), of_j, place)
            store_products(vector_of(q, 1), of_j, place + 64)
            store_products(vector_of(q, 2), of_j, place + 128)
            store_products(vector_of(q, 3), of_j, place + 192)

        return unpack_column

    def columns(first: int) -> Any:
        c0, c1, c2, c3, c4, c5, c6, c7 = [column(j) for j in range(first, first + 8)]

        @inline
        def unpack_columns(block, row_bytes, factors, ahead, planes):
            tile = gather_columns(factors + _SCALES, 16)
            scales = vector_of(tile, 0), vector_of(tile, 1), vector_of(tile, 2), vector_of(tile, 3)
            c0(factors, scales, planes)
            c1(factors, scales, planes)
            c2(factors, scales, planes)
            c3(factors, scales, planes)
            c4(factors, scales, planes)
            c5(factors, scales, planes)
            c6(factors, scales, planes)
            c7(factors, scales, planes)

        return unpack_columns

    return signed_unit(unpack_factors, (rows(0), rows(8), columns(0), columns(8)))


def grid_format(name: str, block_bytes: int, per_scale: int, read_block: Any, weights: Any, super_scale: Any) -> Format:
    """`per_scale`: 16 or 32 weights share a sub-scale; the other parts are described above."""
    narrow = per_scale == 16
    store_scales = store_scales_16 if narrow else store_scales_32

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        unpack_rows(block, row_bytes, ahead, block_bytes, panel, read_block, weights, super_scale, store_scales)

    @inline
    def scaled_sums(block, x):
        return scaled_sums_of(block, x, block_bytes, read_block, weights)

    @inline
    def four_scales(b0, b1, b2, b3):
        return four_f32(super_scale(b0), super_scale(b1), super_scale(b2), super_scale(b3))

    @inline
    def dequantize(row, n_cols, out):
        numbers_of_row(row, n_cols, out, block_bytes, read_block, weights, super_scale)

    return quantised(
        name,
        block=BLOCK,
        block_bytes=block_bytes,
        activation=Activation.Q8K,
        panel_block_bytes=PANEL_BLOCK_BYTES_16 if narrow else PANEL_BLOCK_BYTES_32,
        parts=PARTS,
        unpack_block=unpack_block,
        multiply_block=multiply_block_16 if narrow else multiply_block_32,
        in_fours=in_fours(block_bytes, scaled_sums, four_scales),
        dequantize=dequantize,
        matrix_unit=unit_of_grid(block_bytes, read_block, weights, super_scale),
    )
