"""IQ2_S: 256 weights in 82 bytes, sixteen runs of 16 with a 4-bit scale each.

    bytes   0.. 2  d       f16
            2..34  qs      the low eight bits of an index into the grid of 1024, for every eight weights
           34..66  signs   a bit for each weight
           66..74  qh      the high two bits of four indices in each byte, from bit 0 on
           74..82  scales  a nibble s for each run, the low one first

    weight = d * (0.5 + s) / 4 * (+-magnitude) = d / 8 * (2 s + 1) * (+-magnitude)

Source: ggml-common.h `block_iq2_s`, ggml-quants.c `dequantize_row_iq2_s`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import magnitudes, sixteen_nibbles, with_signs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    as_i8x32,
    bor,
    grid_verbs,
    load_f16,
    load_i8x32,
    load_i32,
    shift_left,
    widen_bytes,
    word_of,
    zero_extend_to_i16,
)

BLOCK_BYTES = 82
QS, QS_SIGNS, QH, SCALES = 2, 34, 66, 74

note, entries = grid_verbs("iq2_s", lambda: magnitudes("IQ2_S"))


@inline
def read_block(block):
    qh = widen_bytes(load_i32(block + QH), load_i32(block + QH + 4))
    nibbles = and_bits(bor(qh, shift_left(qh, 12)), 0x000F000F)
    high = as_i8x32(and_bits(bor(nibbles, shift_left(nibbles, 6)), 0x03030303))  # two bits a byte
    low = zero_extend_to_i16(load_i8x32(block + QS))
    notes = note(bor(low, shift_left(zero_extend_to_i16(high), 8)))
    signs = load_i8x32(block + QS_SIGNS)
    return notes, signs, sixteen_nibbles(block + SCALES)


@inline
def weights(notes, signs, k):
    return with_signs(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block) * np.float32(0.125)


FORMAT = grid_format("IQ2_S", BLOCK_BYTES, 16, read_block, weights, super_scale)
