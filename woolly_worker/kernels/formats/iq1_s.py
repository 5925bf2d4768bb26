"""IQ1_S: 256 weights in 50 bytes, eight runs of 32 with a 3-bit scale each.

    bytes   0.. 2  d   f16
            2..34  qs  the low eight bits of an index into the grid of 2048, for every eight weights
           34..50  qh  u16 for each run: the high three bits of four indices from bit 0 on, the scale s in bits 12..15,
                       bit 15: move the run's weights down by 1/8 instead of up

    weight = d * (2 s + 1) * (g +- 1/8) = d / 8 * (2 s + 1) * (8 g +- 1),   g in (-1, 0, 1)

Source: ggml-common.h `block_iq1_s`, ggml-quants.c `dequantize_row_iq1_s`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import eighths, for_both_halves, moved_down, odd
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    as_i16x32,
    bor,
    concat,
    grid_verbs,
    load_f16,
    load_i8x32,
    load_i16x8,
    shift_left,
    shift_right,
    shift_right_signed,
    spread,
    word_of,
    zero_extend,
    zero_extend_to_i16,
)

BLOCK_BYTES = 50
QS, QH = 2, 34

note, entries = grid_verbs("iq1", eighths)


@inline
def _two_high_parts(h):
    """Bits 0..3 and 3..6 of every lane, each moved to bits 8..11 of a 16-bit half."""
    return bor(shift_left(and_bits(h, 0x07), 8), shift_left(and_bits(h, 0x38), 21))


@inline
def read_block(block):
    qh = zero_extend(load_i16x8(block + QH))
    high = spread(concat(_two_high_parts(qh), _two_high_parts(shift_right(qh, 6))), "08192a3b4c5d6e7f")
    low = zero_extend_to_i16(load_i8x32(block + QS))
    notes = note(bor(low, as_i16x32(high)))
    signs = shift_right_signed(shift_left(qh, 16), 31)
    return notes, signs, for_both_halves(odd(and_bits(shift_right(qh, 12), 7)))


@inline
def weights(notes, signs, k):
    return moved_down(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block) * np.float32(0.125)


FORMAT = grid_format("IQ1_S", BLOCK_BYTES, 32, read_block, weights, super_scale)
