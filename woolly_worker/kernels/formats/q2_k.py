"""Q2_K: 256 weights in 84 bytes, sixteen sub-blocks of 16 with a 4-bit scale and a 4-bit min each.

    bytes   0..16   scales   byte j: scale of sub-block j (low), min (high)
           16..80   qs       2-bit values; byte 32 h + l holds weight 128 h + 32 k + l in bits 2 k .. 2 k + 2
           80..82   d        f16   scale of the scales
           82..84   dmin     f16   scale of the mins

    weight = d * scale * q - dmin * min

scale * q is at most 45: the panel holds these products.

Source: ggml-common.h `block_q2_K`, ggml-quants.c `dequantize_row_q2_K`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS16, Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours_with_mins
from woolly_worker.kernels.formats.k_scales import store_pairs
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import dot_block, in_both_halves
from woolly_worker.kernels.formats.planes_with_mins import add_both, load_mins, times_sums
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import MatrixUnit
from woolly_worker.kernels.simd import (
    accumulate_each,
    and_bits,
    as_i16x32,
    concat,
    dot_pairs,
    dot_times,
    gather_columns,
    high_halves_f32,
    load_f16,
    load_f32x16,
    load_four_i32,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16x16,
    load_u8,
    low_halves_f32,
    mul,
    negate,
    prefetch,
    shift_right,
    sign_extend,
    splat_f32x16,
    spread_factors,
    store,
    sub,
    sums_of_four,
    to_f32,
    to_factors,
    vector_of,
    zero_extend,
    zero_i32x16,
    zeros_i32_like,
)

BLOCK, BLOCK_BYTES = 256, 84
QS, D, DMIN = 16, 80, 82

QUARTER_AHEAD = 64 * 6  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines

# The panel of sixteen rows: scale * q as [64 groups][16 rows][4 columns] u8, then
PANEL_MINS = 4096  # pairs of i16 for sub-blocks (0, 1), (2, 3), ... x 16 rows
PANEL_D = PANEL_MINS + 8 * 64  # f32 x 16 rows
PANEL_DMIN = PANEL_D + 64
PANEL_BLOCK_BYTES = PANEL_DMIN + 64


@inline
def _unpack_column(q, scale0, scale1, scale2, scale3, place):
    """Four weights of sixteen rows from each of the four runs of 32, times their scales."""
    store(place, mul(as_i16x32(and_bits(q, 0x03030303)), in_both_halves(scale0)))
    store(place + 512, mul(as_i16x32(and_bits(shift_right(q, 2), 0x03030303)), in_both_halves(scale1)))
    store(place + 1024, mul(as_i16x32(and_bits(shift_right(q, 4), 0x03030303)), in_both_halves(scale2)))
    store(place + 1536, mul(as_i16x32(and_bits(shift_right(q, 6), 0x03030303)), in_both_halves(scale3)))


@inline
def _unpack_part(qs, row_bytes, first, last, ahead, place):
    """Sixteen weights from each of four runs. Their scales are bytes 0 and 2 of the lanes of `first` and `last`. Four
    lines are asked for from `ahead` on."""
    q = gather_columns(qs, row_bytes)
    scale0, scale1 = and_bits(first, 15), and_bits(shift_right(first, 16), 15)
    scale2, scale3 = and_bits(last, 15), and_bits(shift_right(last, 16), 15)
    prefetch(ahead)
    _unpack_column(vector_of(q, 0), scale0, scale1, scale2, scale3, place)
    prefetch(ahead + 64)
    _unpack_column(vector_of(q, 1), scale0, scale1, scale2, scale3, place + 64)
    prefetch(ahead + 128)
    _unpack_column(vector_of(q, 2), scale0, scale1, scale2, scale3, place + 128)
    prefetch(ahead + 192)
    _unpack_column(vector_of(q, 3), scale0, scale1, scale2, scale3, place + 192)


@inline
def _unpack_half(qs, row_bytes, first, last, ahead, place):
    """128 weights; `first` and `last` hold four scales each. Every second one belongs to the second half of a run."""
    _unpack_part(qs, row_bytes, first, last, ahead, place)
    _unpack_part(qs + 16, row_bytes, shift_right(first, 8), shift_right(last, 8), ahead + 256, place + 256)


@inline
def _unpack_mins(four, place):
    """The mins, the high nibbles of four bytes a lane, as two vectors of 16-bit pairs."""
    store_pairs(place, and_bits(shift_right(four, 4), 0x0F0F0F0F))


@inline
def _unpack_factors(block, row_bytes, factors):
    """For the matrix unit: d, dmin negated, and the mins."""
    scales = gather_columns(block, row_bytes)
    s0, s1, s2, s3 = vector_of(scales, 0), vector_of(scales, 1), vector_of(scales, 2), vector_of(scales, 3)
    tail = vector_of(gather_columns(block + BLOCK_BYTES - 16, row_bytes), 3)
    store(factors, low_halves_f32(tail))
    store(factors + 64, negate(high_halves_f32(tail)))
    _unpack_mins(s0, factors + 128)
    _unpack_mins(s1, factors + 256)
    _unpack_mins(s2, factors + 384)
    _unpack_mins(s3, factors + 512)
    return s0, s1, s2, s3


def _quarter(h: int, part: int) -> Any:
    """For the matrix unit, sixteen weights from each of the four runs of 32 in half h."""
    bits = 8 * part

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        ahead += QUARTER_AHEAD * (2 * h + part)
        prefetch(ahead + 64 * 4)
        prefetch(ahead + 64 * 5)
        first, last = shift_right(scales[2 * h], bits), shift_right(scales[2 * h + 1], bits)
        _unpack_part(block + QS + 32 * h + 16 * part, row_bytes, first, last, ahead, planes + 2048 * h + 256 * part)

    return unpack_quarter


@inline
def _load_factors(factors):
    return load_f32x16(factors), load_f32x16(factors + 64), load_mins(factors + 128), load_mins(factors + 384)


@inline
def _add_token(factors, record, total, acc):
    """The float steps of `multiply_block` for one token."""
    d, dmin, first, last = factors
    offset = times_sums(times_sums(zero_i32x16(), first, record + Q8K_SUMS16), last, record + Q8K_SUMS16 + 16)
    return add_both(d, dmin, record, total, offset, acc)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(16, 21):  # 16 * 84 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    scales = gather_columns(block, row_bytes)
    s0, s1, s2, s3 = vector_of(scales, 0), vector_of(scales, 1), vector_of(scales, 2), vector_of(scales, 3)
    _unpack_half(block + QS, row_bytes, s0, s1, ahead, panel)
    _unpack_half(block + QS + 32, row_bytes, s2, s3, ahead + 512, panel + 2048)
    _unpack_mins(s0, panel + PANEL_MINS)
    _unpack_mins(s1, panel + PANEL_MINS + 128)
    _unpack_mins(s2, panel + PANEL_MINS + 256)
    _unpack_mins(s3, panel + PANEL_MINS + 384)
    tail = vector_of(gather_columns(block + BLOCK_BYTES - 16, row_bytes), 3)
    store(panel + PANEL_D, low_halves_f32(tail))
    store(panel + PANEL_DMIN, high_halves_f32(tail))


@inline
def multiply_block(panel, x, i, x_stride, acc):
    """acc[t] += panel . x[t]. Integers: 256 * 45 * 127 < 2**31."""
    x += i * Q8K_BYTES
    s = dot_block(panel, x, x_stride, acc, 45)
    mins = dot_pairs(zeros_i32_like(acc), panel + PANEL_MINS, x + Q8K_SUMS16, x_stride, 8)
    acc = accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, s)
    return accumulate_each(acc, negate(load_f32x16(panel + PANEL_DMIN)), x + Q8K_SCALE, x_stride, mins)


@inline
def load_runs(x):
    """Activations of a run of 32 and of the run 128 behind it: those of bits 2 k .. 2 k + 2 of all 64 bytes of qs,
    where x is that of weight 32 k. Shared with Q3_K and TQ2_0."""
    return concat(load_i8x32(x), load_i8x32(x + 128))


@inline
def _scaled_sums(block, x):
    """Sixteen lanes of partial sums, and sixteen of the mins times the sums of the activations."""
    ask_ahead(block)
    both, q = load_i8x16(block), load_i8x64(block + QS)
    scales, mins = to_factors(zero_extend(and_bits(both, 15))), zero_extend(shift_right(both, 4))
    q1, q2 = and_bits(shift_right(q, 2), 3), and_bits(shift_right(q, 4), 3)
    s = dot_times(zero_i32x16(), and_bits(q, 3), load_runs(x), spread_factors(scales, "0000111188889999"), 3)
    s = dot_times(s, q1, load_runs(x + 32), spread_factors(scales, "22223333aaaabbbb"), 3)
    ask_ahead(block + 64)
    s = dot_times(s, q2, load_runs(x + 64), spread_factors(scales, "44445555ccccdddd"), 3)
    s = dot_times(s, shift_right(q, 6), load_runs(x + 96), spread_factors(scales, "66667777eeeeffff"), 3)
    return s, mul(mins, sign_extend(load_i16x16(x + Q8K_SUMS16)))


@inline
def _four(b0, b1, b2, b3, x0, x1, x2, x3):
    s0, m0 = _scaled_sums(b0, x0)
    s1, m1 = _scaled_sums(b1, x1)
    s2, m2 = _scaled_sums(b2, x2)
    s3, m3 = _scaled_sums(b3, x3)
    heads = load_four_i32(b0 + D, b1 + D, b2 + D, b3 + D)  # d and dmin
    return heads, sums_of_four(s0, s1, s2, s3), sums_of_four(m0, m1, m2, m3)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * scale) * q - (dmin * min)."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, dmin = load_f16(block + D), load_f16(block + DMIN)
        for h in range(2):
            for part in range(2):
                q = zero_extend(load_i8x16(block + QS + 32 * h + 16 * part))
                for k in range(4):
                    both = load_u8(block + 8 * h + 2 * k + part)
                    factor, offset = splat_f32x16(d * np.float32(both & 15)), splat_f32x16(dmin * np.float32(both >> 4))
                    place = out + 4 * (256 * i + 128 * h + 32 * k + 16 * part)
                    store(place, sub(mul(factor, to_f32(and_bits(q, 3))), offset))
                    q = shift_right(q, 2)


FORMAT = quantised(
    "Q2_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours_with_mins(BLOCK_BYTES, _four),
    dequantize=dequantize,
    matrix_unit=MatrixUnit(
        _unpack_factors,
        (_quarter(0, 0), _quarter(0, 1), _quarter(1, 0), _quarter(1, 1)),
        _load_factors,
        _add_token,
        upper=None,
    ),
)
