"""IQ4_XS: 256 weights in 136 bytes, eight sub-blocks of 32 with a 6-bit scale, values from a table of sixteen.

    bytes   0..  2   d          f16
            2..  4   scales_h   u16: bits 2 j .. 2 j + 2 are the high bits of scale j
            4..  8   scales_l   low four bits of scales 2 j (low nibble of byte j) and 2 j + 1 (high)
            8..136   qs         byte 16 j + l holds weight 32 j + l (low) and 32 j + 16 + l (high)

    weight = d * (scale - 32) * VALUES[q]

The table's values lie in -127..113. Panels keep value + 128 unsigned, and 128 * sum(scale * sum of activations) is
taken away, in integers. Where products of bytes are added up in 16 bits, values stay as they are.

Source: ggml-common.h `block_iq4_xs`, `kvalues_iq4nl`, ggml-quants.c `dequantize_row_iq4_xs`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS32, Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import dot_block_times
from woolly_worker.kernels.formats.scaled_panels import less_32
from woolly_worker.kernels.formats.signed_planes import scales_with, signed_unit, store_products
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    accumulate_each,
    add,
    and_bits,
    bor,
    byte_table,
    concat,
    dot_i8i8_times,
    dot_pairs,
    dot_u8i8,
    gather_columns,
    load_f16,
    load_f32x16,
    load_four_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16,
    load_i16x8,
    load_i32,
    low_halves_f32,
    mul,
    prefetch,
    shift_left,
    shift_right,
    shift_right_by,
    shift_sixteens,
    sign_extend,
    sixteen_twice,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    spread,
    spread_factors,
    store,
    sub,
    sub_scaled_each,
    to_f32,
    to_factors,
    twice,
    vector_of,
    zero_extend,
    zero_i32x8,
    zero_i32x16,
    zeros_i32_like,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS

BLOCK, BLOCK_BYTES = 256, 136
SCALES_H, SCALES_L, QS = 2, 4, 8

QUARTER_AHEAD = 64 * 9  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines

# The panel of sixteen rows: values (+ 128) as [64 groups][16 rows][4 columns] u8, then
PANEL_SCALES = 4096  # i32 x 16 rows, for each of 8 sub-blocks
PANEL_PAIRS = PANEL_SCALES + 8 * 64  # the same scales as pairs of i16
PANEL_D = PANEL_PAIRS + (0 if IN_SHORTS else 4 * 64)  # f32 x 16 rows
PANEL_BLOCK_BYTES = PANEL_D + 64


def _values() -> list[int]:
    from gguf.quants import IQ4_NL  # slow to import, and needed by the compiler only

    return list(IQ4_NL.kvalues)


raised_value = byte_table(lambda: [value + 128 for value in _values()])
signed_value = byte_table(lambda: [value & 0xFF for value in _values()])

LARGEST = 241  # of the raised values


@inline
def _scale(low, high):
    """A scale from the low four bits of one vector's lanes and the low two of another's."""
    thirty_two = splat_i32x16(np.int32(32))
    return sub(bor(and_bits(low, 15), shift_left(and_bits(high, 3), 4)), thirty_two)


@inline
def _unpack_scales(low, high, panel):
    """All scales of sixteen rows: `low` holds eight times four bits a lane, `high` eight times two."""
    for pair in range(4):
        s0, s1 = _scale(low, high), _scale(shift_right(low, 4), shift_right(high, 2))
        store(panel + PANEL_SCALES + 128 * pair, s0)
        store(panel + PANEL_SCALES + 128 * pair + 64, s1)
        if not IN_SHORTS:
            store(panel + PANEL_PAIRS + 64 * pair, bor(and_bits(s0, 0xFFFF), shift_left(s1, 16)))
        low, high = shift_right(low, 8), shift_right(high, 4)


panel_value = signed_value if IN_SHORTS else raised_value


@inline
def _unpack_column(q, place):
    """Four weights of sixteen rows from each of the two halves of a sub-block."""
    store(place, panel_value(and_bits(q, 0x0F0F0F0F)))
    store(place + 256, panel_value(and_bits(shift_right(q, 4), 0x0F0F0F0F)))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(34):  # 16 * 136 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    head = gather_columns(block, row_bytes)
    store(panel + PANEL_D, low_halves_f32(vector_of(head, 0)))
    _unpack_scales(vector_of(head, 1), shift_right(vector_of(head, 0), 16), panel)
    for j in range(8):
        q, place = gather_columns(block + QS + 16 * j, row_bytes), panel + 512 * j
        _unpack_column(vector_of(q, 0), place)
        _unpack_column(vector_of(q, 1), place + 64)
        _unpack_column(vector_of(q, 2), place + 128)
        _unpack_column(vector_of(q, 3), place + 192)


_dot_block = dot_block_times(8, None if IN_SHORTS else LARGEST)


@inline
def multiply_block(panel, x, i, x_stride, acc):
    """acc[t] += panel . x[t]. Integers: 256 * (241 + 128) * 127 * 32 < 2**31."""
    x += i * Q8K_BYTES
    total = _dot_block(zeros_i32_like(acc), panel, panel + PANEL_SCALES, x, x_stride)
    if not IN_SHORTS:
        offsets = dot_pairs(zeros_i32_like(acc), panel + PANEL_PAIRS, x + Q8K_SUMS32, x_stride, 4)
        total = sub_scaled_each(total, offsets, 128)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)


@inline
def _four_scales_of_each(low, high):
    """Four bytes a lane, scale - 32, from the low four bits and the high two of every byte."""
    return less_32(bor(and_bits(low, 0x0F0F0F0F), high))


@inline
def _unpack_factors(block, row_bytes, factors):
    """For the matrix unit: the scales with even numbers, then those with odd ones."""
    head = gather_columns(block, row_bytes)
    d, low = vector_of(head, 0), vector_of(head, 1)
    store(factors, low_halves_f32(d))
    # A nibble of scales_h is the high bits of two scales: the four of them to the four bytes.
    high = shift_right(d, 16)
    high = and_bits(bor(high, shift_left(high, 8)), 0x00FF00FF)
    high = and_bits(bor(high, shift_left(high, 4)), 0x0F0F0F0F)
    even = _four_scales_of_each(low, shift_left(and_bits(high, 0x03030303), 4))
    return even, _four_scales_of_each(shift_right(low, 4), shift_left(and_bits(high, 0x0C0C0C0C), 2))


def _quarter(c: int) -> Any:
    """For the matrix unit, sub-blocks 2 c and 2 c + 1."""
    scales_of = scales_with(offset=128)
    scales_0, scales_1 = scales_of(c), scales_of(4 + c)

    @inline
    def column(q, scales, place):
        store_products(raised_value(and_bits(q, 0x0F0F0F0F)), scales, place)
        store_products(raised_value(and_bits(shift_right(q, 4), 0x0F0F0F0F)), scales, place + 256)

    @inline
    def sub_block(qs, row_bytes, scales, ahead, place):
        q = gather_columns(qs, row_bytes)
        prefetch(ahead)
        column(vector_of(q, 0), scales, place)
        prefetch(ahead + 64)
        column(vector_of(q, 1), scales, place + 64)
        prefetch(ahead + 128)
        column(vector_of(q, 2), scales, place + 128)
        prefetch(ahead + 192)
        column(vector_of(q, 3), scales, place + 192)

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        qs, place = block + QS + 32 * c, planes + 1024 * c
        ahead += QUARTER_AHEAD * c
        prefetch(ahead + 512)
        sub_block(qs, row_bytes, scales_0(scales), ahead, place)
        sub_block(qs + 16, row_bytes, scales_1(scales), ahead + 256, place + 512)

    return unpack_quarter


@inline
def _scales(block):
    """The eight scales of one block, as i32x8."""
    low = shift_right_by(splat_i32x8(load_i32(block + SCALES_L)), "048cgkos")
    high = shift_right_by(splat_i32x8(load_i16(block + SCALES_H)), "02468ace")
    both = bor(and_bits(low, 15), shift_left(and_bits(high, 3), 4))
    return sub(both, splat_i32x8(np.int32(32)))


@inline
def _nibbles(twice_sixteen):
    """64 table indices: the low nibbles of sixteen bytes, the high ones of their copy, and again."""
    return and_bits(shift_sixteens(twice_sixteen, 0, 4), 15)


if IN_SHORTS:

    @inline
    def _scaled_sums(block, x):
        """Sixteen lanes of partial sums."""
        zero = zero_i32x16()
        ask_ahead(block)
        s = to_factors(twice(_scales(block)))
        a = _dot(zero, block + QS, x, spread_factors(s, "0000000011111111"))
        ask_ahead(block + 64)
        a = _dot(a, block + QS + 32, x + 64, spread_factors(s, "2222222233333333"))
        b = _dot(zero, block + QS + 64, x + 128, spread_factors(s, "4444444455555555"))
        ask_ahead(block + 128)
        return add(a, _dot(b, block + QS + 96, x + 192, spread_factors(s, "6666666677777777")))

    @inline
    def _dot(acc, qs, x, scales):
        # Loads put sixteen bytes into both halves of a register; a shuffle across them takes Zen 3 longer.
        q = concat(twice(load_i8x16(qs)), twice(load_i8x16(qs + 16)))
        return dot_i8i8_times(acc, signed_value(_nibbles(q)), load_i8x64(x), scales)

else:

    @inline
    def _dot(qs, x):
        """64 weights, two sub-blocks of 32, times their activations: eight lanes of partial sums each."""
        return dot_u8i8(zero_i32x16(), raised_value(_nibbles(sixteen_twice(load_i8x32(qs)))), load_i8x64(x), LARGEST)

    @inline
    def _scaled_sums(block, x):
        """Sixteen lanes of partial sums, the 128 that every value is too large taken away."""
        ask_ahead(block)
        scales = _scales(block)
        s = mul(_dot(block + QS, x), spread(scales, "0000000011111111"))
        ask_ahead(block + 64)
        s = add(s, mul(_dot(block + QS + 32, x + 64), spread(scales, "2222222233333333")))
        s = add(s, mul(_dot(block + QS + 64, x + 128), spread(scales, "4444444455555555")))
        ask_ahead(block + 128)
        s = add(s, mul(_dot(block + QS + 96, x + 192), spread(scales, "6666666677777777")))
        offset = mul(scales, sign_extend(load_i16x8(x + Q8K_SUMS32)))
        return sub(s, concat(shift_left(offset, 7), zero_i32x8()))


@inline
def _four_scales(b0, b1, b2, b3):
    return load_four_f16(b0, b1, b2, b3)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: d * (scale - 32) * value, from the left."""
    raised = splat_i32x16(np.int32(128))
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, low, high = load_f16(block), load_i32(block + SCALES_L), load_i16(block + SCALES_H)
        for j in range(8):
            scale = ((low >> 4 * j) & 15 | ((high >> 2 * j) & 3) << 4) - 32
            factor = splat_f32x16(d * np.float32(scale))
            q = load_i8x16(block + QS + 16 * j)
            place = out + 4 * (256 * i + 32 * j)
            store(place, mul(factor, to_f32(sub(zero_extend(raised_value(and_bits(q, 15))), raised))))
            store(place + 64, mul(factor, to_f32(sub(zero_extend(raised_value(shift_right(q, 4))), raised))))


FORMAT = quantised(
    "IQ4_XS",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours(BLOCK_BYTES, _scaled_sums, _four_scales),
    dequantize=dequantize,
    matrix_unit=signed_unit(_unpack_factors, (_quarter(0), _quarter(1), _quarter(2), _quarter(3))),
)
