"""Q5_K: 256 weights in 176 bytes: Q4_K with a fifth bit for every weight.

    bytes   0..  2   d       f16   scale of the scales
            2..  4   dmin    f16   scale of the mins
            4.. 16   scales        8 x (6-bit scale, 6-bit min), packed as in Q4_K
           16.. 48   qh            bit j of byte l is the fifth bit of weight 32 j + l
           48..176   qs            low four bits; byte 32 c + l holds weight 64 c + l (low) and 64 c + 32 + l (high)

    weight = d * scale * q - dmin * min

The panel and its multiplication are Q4_K's: q needs a byte there either way.

Source: ggml-common.h `block_q5_K`, ggml-quants.c `dequantize_row_q5_K`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.ahead import ask_ahead, ask_ahead_loosely
from woolly_worker.kernels.formats.fours import PARTS, in_fours_with_mins
from woolly_worker.kernels.formats.k_scales import PANEL_BLOCK_BYTES, scale_and_min, unpack_scales
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.planes_with_mins import scales_of, store_products, unit_with_mins, unpack_factors
from woolly_worker.kernels.formats.q4_k import four_blocks, multiply_block_up_to
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    dot_times,
    gather_columns,
    load_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    mul,
    prefetch,
    shift_halves,
    shift_left,
    shift_right,
    splat_f32x16,
    store,
    sub,
    to_f32,
    twice,
    vector_of,
    zero_extend,
    zero_i32x16,
)

BLOCK, BLOCK_BYTES = 256, 176
QH, QS = 16, 48
QUARTER_AHEAD = 64 * 11  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines


@inline
def _two_runs(q, fifth):
    """Four weights of sixteen rows from each of two runs of 32: `fifth` has their fifth bits in bits 0 and 1 of every
    byte."""
    low = bor(and_bits(q, 0x0F0F0F0F), shift_left(and_bits(fifth, 0x01010101), 4))
    return low, bor(and_bits(shift_right(q, 4), 0x0F0F0F0F), shift_left(and_bits(fifth, 0x02020202), 3))


@inline
def _unpack_column(q, fifth, place):
    """Returns the fifth bits of the next two runs."""
    low, high = _two_runs(q, fifth)
    store(place, low)
    store(place + 512, high)
    return shift_right(fifth, 2)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into Q4_K's panel."""
    for line in range(4):  # of 44 that the next sixteen rows have, see q4_k; the others follow
        prefetch(ahead + 64 * line)
    head = gather_columns(block, row_bytes)
    unpack_scales(vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3), panel)
    for half in range(2):
        bits = gather_columns(block + QH + 16 * half, row_bytes)
        bits0, bits1, bits2, bits3 = vector_of(bits, 0), vector_of(bits, 1), vector_of(bits, 2), vector_of(bits, 3)
        for c in range(4):
            for line in range(5):
                prefetch(ahead + 256 + 1280 * half + 320 * c + 64 * line)
            q = gather_columns(block + QS + 32 * c + 16 * half, row_bytes)
            place = panel + 1024 * c + 256 * half
            bits0 = _unpack_column(vector_of(q, 0), bits0, place)
            bits1 = _unpack_column(vector_of(q, 1), bits1, place + 64)
            bits2 = _unpack_column(vector_of(q, 2), bits2, place + 128)
            bits3 = _unpack_column(vector_of(q, 3), bits3, place + 192)


@inline
def _fifth(q, bits):
    """64 weights: the nibbles of 32 bytes, and their fifth bits where `bits` has been shifted to."""
    return bor(and_bits(shift_halves(twice(q), 0, 4), 15), and_bits(bits, 16))


# Held between the loads, asks cost 14 % here with AVX2, at no other level, and in no other format that was measured.
_ask = ask_ahead_loosely if CPU.level == "avx2" else ask_ahead


@inline
def _scaled_sums(block, x, s01, s23, s45, s67):
    """Sixteen lanes of partial sums."""
    zero = zero_i32x16()
    _ask(block)
    bits = twice(load_i8x32(block + QH))
    q = _fifth(load_i8x32(block + QS), shift_halves(bits, -4, -3))
    a = dot_times(zero, q, load_i8x64(x), s01, 31)
    _ask(block + 64)
    q = _fifth(load_i8x32(block + QS + 32), shift_halves(bits, -2, -1))
    a = dot_times(a, q, load_i8x64(x + 64), s23, 31)
    q = _fifth(load_i8x32(block + QS + 64), shift_halves(bits, 0, 1))
    b = dot_times(zero, q, load_i8x64(x + 128), s45, 31)
    _ask(block + 128)
    q = _fifth(load_i8x32(block + QS + 96), shift_halves(bits, 2, 3))
    b = dot_times(b, q, load_i8x64(x + 192), s67, 31)
    return add(a, b)


@inline
def _four(b0, b1, b2, b3, x0, x1, x2, x3):
    return four_blocks(b0, b1, b2, b3, x0, x1, x2, x3, _scaled_sums)


@inline
def _unpack_factors(block, row_bytes, factors):
    """Q4_K's, and the fifth bits of both halves."""
    bits = gather_columns(block + QH, row_bytes), gather_columns(block + QH + 16, row_bytes)
    return unpack_factors(block, row_bytes, factors), bits


def _quarter(c: int) -> Any:
    """Sub-blocks 2 c and 2 c + 1 for the matrix unit."""
    scales_of_low, scales_of_high = scales_of(2 * c), scales_of(2 * c + 1)
    past = 2 * c  # bits of the quarters before

    @inline
    def pair(q, fifth, ahead, low, high, place):
        prefetch(ahead)
        of_low, of_high = _two_runs(q, shift_right(fifth, past))
        store_products(of_low, low[0], low[1], place)
        store_products(of_high, high[0], high[1], place + 512)

    @inline
    def unpack_half(block, row_bytes, bits, ahead, low, high, place):
        q = gather_columns(block, row_bytes)
        pair(vector_of(q, 0), vector_of(bits, 0), ahead, low, high, place)
        pair(vector_of(q, 1), vector_of(bits, 1), ahead + 64, low, high, place + 64)
        pair(vector_of(q, 2), vector_of(bits, 2), ahead + 128, low, high, place + 128)
        pair(vector_of(q, 3), vector_of(bits, 3), ahead + 192, low, high, place + 192)

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        parts, bits = scales
        low, high = scales_of_low(parts), scales_of_high(parts)
        q, place = block + QS + 32 * c, planes + 1024 * c
        ahead += QUARTER_AHEAD * c
        unpack_half(q, row_bytes, bits[0], ahead, low, high, place)
        for line in range(8, 11):
            prefetch(ahead + 64 * line)
        unpack_half(q + 16, row_bytes, bits[1], ahead + 256, low, high, place + 256)

    return unpack_quarter


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * scale) * q - (dmin * min)."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, dmin = load_f16(block), load_f16(block + 2)
        for half in range(2):
            bits = zero_extend(load_i8x16(block + QH + 16 * half))
            for j in range(8):
                scale, low = scale_and_min(block, j)
                factor, offset = splat_f32x16(d * np.float32(scale)), splat_f32x16(dmin * np.float32(low))
                q = zero_extend(load_i8x16(block + QS + 32 * (j // 2) + 16 * half))
                q = shift_right(q, 4) if j % 2 else and_bits(q, 15)
                q = add(q, shift_left(and_bits(bits, 1), 4))
                bits = shift_right(bits, 1)
                store(out + 4 * (256 * i + 32 * j + 16 * half), sub(mul(factor, to_f32(q)), offset))


FORMAT = quantised(
    "Q5_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block_up_to(31),
    in_fours=in_fours_with_mins(BLOCK_BYTES, _four),
    dequantize=dequantize,
    matrix_unit=unit_with_mins(_unpack_factors, _quarter),
)
