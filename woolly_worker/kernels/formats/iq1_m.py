"""IQ1_M: 256 weights in 56 bytes, sixteen runs of 16 with a 3-bit scale each.

    bytes   0..32  qs      the low eight bits of an index into the grid of 2048, for every eight weights
           32..48  qh      a nibble for every eight weights, the low one first: the index's high three bits,
                           bit 3: move the weights down by 1/8 instead of up
           48..56  scales  4 x u16: four scales s from bit 0 on, and in bits 12..16 a quarter of d (f16), the low first

    weight = d * (2 s + 1) * (g +- 1/8) = d / 8 * (2 s + 1) * (8 g +- 1),   g in (-1, 0, 1)

Source: ggml-common.h `block_iq1_m`, ggml-quants.c `dequantize_row_iq1_m`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import eighths, moved_down, odd
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    as_i16x32,
    bor,
    concat,
    first_lane,
    grid_verbs,
    load_i8x16,
    load_i8x32,
    load_i16x8,
    load_i32,
    low_halves_f32,
    narrow_to_i8,
    shift_left,
    shift_right,
    shift_right_signed,
    splat_i32x16,
    spread,
    word_of,
    zero_extend,
    zero_extend_to_i16,
)

BLOCK_BYTES = 56
QS, QH, SCALES = 0, 32, 48

note, entries = grid_verbs("iq1", eighths)


@inline
def _scales(block):
    # The block ends with the scales: a vector that ends there as well has them in its lanes 4..8.
    s = zero_extend(load_i16x8(block + SCALES - 8))
    first = concat(and_bits(s, 7), and_bits(shift_right(s, 3), 7))
    last = concat(and_bits(shift_right(s, 6), 7), and_bits(shift_right(s, 9), 7))
    return odd(spread(concat(first, last), "4cks5dlt6emu7fnv"))


@inline
def read_block(block):
    qh = zero_extend(load_i8x16(block + QH))
    high = bor(shift_left(and_bits(qh, 0x07), 8), shift_left(and_bits(qh, 0x70), 20))
    low = zero_extend_to_i16(load_i8x32(block + QS))
    down = bor(shift_left(and_bits(qh, 0x08), 12), shift_left(and_bits(qh, 0x80), 24))
    notes = note(bor(low, as_i16x32(high)))
    signs = narrow_to_i8(shift_right_signed(as_i16x32(down), 15))
    return notes, signs, _scales(block)


@inline
def weights(notes, signs, k):
    return moved_down(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    low, high = load_i32(block + SCALES), load_i32(block + SCALES + 4)
    bits = ((low >> 12) & 0xF) | ((low >> 24) & 0xF0) | ((high >> 4) & 0xF00) | ((high >> 16) & 0xF000)
    return first_lane(low_halves_f32(splat_i32x16(np.int32(bits)))) * np.float32(0.125)


FORMAT = grid_format("IQ1_M", BLOCK_BYTES, 16, read_block, weights, super_scale)
