"""Q4_K: 256 weights in 144 bytes, eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.

    bytes   0.. 2   d      f16   scale of the scales
            2.. 4   dmin   f16   scale of the mins
            4..16   scales       8 x (6-bit scale, 6-bit min), packed as ggml does
           16..144  qs           4-bit values; byte 32 c + l holds weight 64 c + l (low) and 64 c + 32 + l (high)

    weight = d * scale * q - dmin * min

Source: ggml-common.h `block_q4_K`, ggml-quants.c `dequantize_row_q4_K`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS32, Activation
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours_with_mins
from woolly_worker.kernels.formats.k_scales import (
    PANEL_BLOCK_BYTES,
    PANEL_D,
    PANEL_DMIN,
    PANEL_MINS,
    PANEL_SCALES,
    high_scales,
    low_scales,
    scale_and_min,
    unpack_scales,
)
from woolly_worker.kernels.formats.nibbles import high_nibbles, low_nibbles
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import dot_block_times
from woolly_worker.kernels.formats.planes_with_mins import scales_of, store_products, unit_with_mins, unpack_factors
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    accumulate_each,
    add,
    add_product_each,
    and_bits,
    dot_bytes_each,
    dot_i16,
    dot_pairs,
    dot_times,
    first_of_quarters,
    gather_columns,
    load_f16,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i32x16,
    load_i64,
    load_quarters,
    mins_of_quarters,
    mul,
    negate,
    prefetch,
    quarter_sums,
    shift_halves,
    shift_right,
    splat_f32x16,
    store,
    store_i64,
    sub,
    sums_of_four,
    to_f32,
    twice,
    two_factors,
    vector_of,
    zero_extend,
    zero_i32x16,
    zeros_i32_like,
)

BLOCK, BLOCK_BYTES = 256, 144
QUARTER_AHEAD = 64 * 9  # bytes of sixteen rows that a quarter asks for: its share

# The panel of sixteen rows: values, then what k_scales.py puts behind them; one quant block after the other.


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel: values as [64 groups][16 rows][4 columns] u8, then scales, mins, d, dmin.

    Rows are sixteen separate streams, which no hardware prefetcher follows. The next sixteen rows are one linear
    piece: an equal share of it is asked for with every block, a few lines at a time.
    """
    for line in range(4):
        prefetch(ahead + 64 * line)
    head = gather_columns(block, row_bytes)
    unpack_scales(vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3), panel)
    for c in range(4):
        values = panel + 1024 * c
        for half in range(2):
            for line in range(4):
                prefetch(ahead + 256 + 512 * c + 256 * half + 64 * line)
            q = gather_columns(block + 16 + 32 * c + 16 * half, row_bytes)
            o = values + 256 * half
            store(o, low_nibbles(vector_of(q, 0)))
            store(o + 64, low_nibbles(vector_of(q, 1)))
            store(o + 128, low_nibbles(vector_of(q, 2)))
            store(o + 192, low_nibbles(vector_of(q, 3)))
            store(o + 512, high_nibbles(vector_of(q, 0)))
            store(o + 576, high_nibbles(vector_of(q, 1)))
            store(o + 640, high_nibbles(vector_of(q, 2)))
            store(o + 704, high_nibbles(vector_of(q, 3)))


def multiply_block_up_to(largest: int) -> Any:
    """The multiply_block of values 0..largest. Shared with Q5_K. Integers: 256 * 31 * 127 * 63 < 2**31."""

    dot = dot_block_times(8, largest)

    @inline
    def multiply_block(panel, x, i, x_stride, acc):
        """acc[t] += panel . x[t]."""
        x += i * Q8K_BYTES
        total = dot(zeros_i32_like(acc), panel, panel + PANEL_SCALES, x, x_stride)
        return _add_to_floats(panel, x, x_stride, acc, total)

    return multiply_block


multiply_block = multiply_block_up_to(15)


@inline
def _add_to_floats(panel, x, x_stride, acc, total):
    """The block's float steps: its scaled sums, then its mins."""
    mins = dot_pairs(zeros_i32_like(acc), panel + PANEL_MINS, x + Q8K_SUMS32, x_stride, 4)
    acc = accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)
    return accumulate_each(acc, negate(load_f32x16(panel + PANEL_DMIN)), x + Q8K_SCALE, x_stride, mins)


@inline
def prepare_block(block, row_bytes, ahead, panel):
    """For few tokens: only the scales go into the panel, and where the rows lie instead of their values."""
    for line in range(36):  # 16 * 144 bytes of the next sixteen rows, see unpack_block
        prefetch(ahead + 64 * line)
    store_i64(panel, block)
    store_i64(panel + 8, row_bytes)
    head = gather_columns(block, row_bytes)
    unpack_scales(vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3), panel)


@inline
def multiply_prepared(panel, x, i, x_stride, acc):
    """multiply_block without stored values: 32 bytes of sixteen rows stay in registers for two sub-blocks."""
    block, row_bytes = load_i64(panel), load_i64(panel + 8)
    x += i * Q8K_BYTES
    total = zeros_i32_like(acc)
    for c in range(4):
        u, v = gather_columns(block + 16 + 32 * c, row_bytes), gather_columns(block + 32 + 32 * c, row_bytes)
        y, scales = x + 64 * c, panel + PANEL_SCALES + 128 * c
        s = dot_bytes_each(zeros_i32_like(acc), low_nibbles(vector_of(u, 0)), y, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(u, 1)), y + 4, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(u, 2)), y + 8, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(u, 3)), y + 12, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(v, 0)), y + 16, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(v, 1)), y + 20, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(v, 2)), y + 24, x_stride, 15)
        s = dot_bytes_each(s, low_nibbles(vector_of(v, 3)), y + 28, x_stride, 15)
        total = add_product_each(total, s, load_i32x16(scales))
        s = dot_bytes_each(zeros_i32_like(acc), high_nibbles(vector_of(u, 0)), y + 32, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(u, 1)), y + 36, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(u, 2)), y + 40, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(u, 3)), y + 44, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(v, 0)), y + 48, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(v, 1)), y + 52, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(v, 2)), y + 56, x_stride, 15)
        s = dot_bytes_each(s, high_nibbles(vector_of(v, 3)), y + 60, x_stride, 15)
        total = add_product_each(total, s, load_i32x16(scales + 64))
    return _add_to_floats(panel, x, x_stride, acc, total)


@inline
def _sums_of_mins(low, high, x0, x1, x2, x3):
    """Every block's mins times the sums of the activations, from their scales."""
    sums = load_quarters(x0 + Q8K_SUMS32, x1 + Q8K_SUMS32, x2 + Q8K_SUMS32, x3 + Q8K_SUMS32)
    return quarter_sums(dot_i16(zero_i32x16(), mins_of_quarters(low, high), sums))


@inline
def _nibbles(packed):
    """32 bytes as 64 values: the low nibbles, then the high ones."""
    return and_bits(shift_halves(twice(packed), 0, 4), 15)


@inline
def _scaled_sums(block, x, s01, s23, s45, s67):
    """Sixteen lanes of partial sums."""
    zero = zero_i32x16()
    ask_ahead(block)
    a = dot_times(zero, _nibbles(load_i8x32(block + 16)), load_i8x64(x), s01, 15)
    ask_ahead(block + 64)
    a = dot_times(a, _nibbles(load_i8x32(block + 48)), load_i8x64(x + 64), s23, 15)
    b = dot_times(zero, _nibbles(load_i8x32(block + 80)), load_i8x64(x + 128), s45, 15)
    ask_ahead(block + 128)
    b = dot_times(b, _nibbles(load_i8x32(block + 112)), load_i8x64(x + 192), s67, 15)
    return add(a, b)


@inline
def four_blocks(b0, b1, b2, b3, x0, x1, x2, x3, scaled_sums):
    """See `fours.in_fours_with_mins`; scaled_sums(block, x, s01, s23, s45, s67) is handed the scales of neighbouring
    sub-blocks. Shared with Q5_K."""
    heads = load_quarters(b0, b1, b2, b3)  # d and dmin, then three words of scales
    lo, hi = low_scales(heads), high_scales(heads)
    sums = sums_of_four(
        scaled_sums(b0, x0, two_factors(lo, 4), two_factors(lo, 6), two_factors(hi, 4), two_factors(hi, 6)),
        scaled_sums(b1, x1, two_factors(lo, 20), two_factors(lo, 22), two_factors(hi, 20), two_factors(hi, 22)),
        scaled_sums(b2, x2, two_factors(lo, 36), two_factors(lo, 38), two_factors(hi, 36), two_factors(hi, 38)),
        scaled_sums(b3, x3, two_factors(lo, 52), two_factors(lo, 54), two_factors(hi, 52), two_factors(hi, 54)),
    )
    return first_of_quarters(heads), sums, _sums_of_mins(lo, hi, x0, x1, x2, x3)


@inline
def _four(b0, b1, b2, b3, x0, x1, x2, x3):
    return four_blocks(b0, b1, b2, b3, x0, x1, x2, x3, _scaled_sums)


IN_FOURS = in_fours_with_mins(BLOCK_BYTES, _four)


def _quarter(c: int) -> Any:
    """Sub-blocks 2 c and 2 c + 1 for the matrix unit."""
    scales_of_low, scales_of_high = scales_of(2 * c), scales_of(2 * c + 1)

    @inline
    def pair(q, ahead, low, high, place):
        prefetch(ahead)
        store_products(low_nibbles(q), low[0], low[1], place)
        store_products(high_nibbles(q), high[0], high[1], place + 512)

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        low, high = scales_of_low(scales), scales_of_high(scales)
        ahead += QUARTER_AHEAD * c
        prefetch(ahead + 512)
        for half in range(2):
            place, line = planes + 1024 * c + 256 * half, ahead + 256 * half
            q = gather_columns(block + 16 + 32 * c + 16 * half, row_bytes)
            pair(vector_of(q, 0), line, low, high, place)
            pair(vector_of(q, 1), line + 64, low, high, place + 64)
            pair(vector_of(q, 2), line + 128, low, high, place + 128)
            pair(vector_of(q, 3), line + 192, low, high, place + 192)

    return unpack_quarter


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * scale) * q - (dmin * min)."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, dmin = load_f16(block), load_f16(block + 2)
        for j in range(8):
            scale, low = scale_and_min(block, j)
            factor, offset = splat_f32x16(d * np.float32(scale)), splat_f32x16(dmin * np.float32(low))
            for half in range(2):
                q = zero_extend(load_i8x16(block + 16 + 32 * (j // 2) + 16 * half))
                q = and_bits(shift_right(q, 4), 15) if j % 2 else and_bits(q, 15)
                store(out + 4 * (256 * i + 32 * j + 16 * half), sub(mul(factor, to_f32(q)), offset))


FORMAT = quantised(
    "Q4_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=IN_FOURS,
    dequantize=dequantize,
    prepare_block=prepare_block if CPU.has_avx512 else None,
    multiply_prepared=multiply_prepared if CPU.has_avx512 else None,
    matrix_unit=unit_with_mins(unpack_factors, _quarter),
)
