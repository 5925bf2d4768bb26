"""IQ2_XS: 256 weights in 74 bytes, sixteen runs of 16 with a 4-bit scale each.

    bytes   0.. 2  d       f16
            2..66  qs      u16 for every eight weights: an index into the grid of 512 in bits 0..9, seven signs above
           66..74  scales  a nibble s for each run, the low one first

    weight = d * (0.5 + s) / 4 * (+-magnitude) = d / 8 * (2 s + 1) * (+-magnitude)

Source: ggml-common.h `block_iq2_xs`, ggml-quants.c `dequantize_row_iq2_xs`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import magnitudes, parities, sixteen_nibbles, with_signs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    as_i16x32,
    bor,
    grid_verbs,
    load_f16,
    load_i8x64,
    narrow_to_i8,
    shift_left,
    shift_right,
    word_of,
)

BLOCK_BYTES = 74
QS, SCALES = 2, 66

note, entries = grid_verbs("iq2_xs", lambda: magnitudes("IQ2_XS"))


@inline
def read_block(block):
    qs = as_i16x32(load_i8x64(block + QS))
    sevens = shift_right(qs, 9)
    eighth = shift_left(and_bits(parities(sevens), 1), 7)  # as in `even_signs`
    notes = note(and_bits(qs, 511))
    signs = narrow_to_i8(bor(sevens, eighth))
    return notes, signs, sixteen_nibbles(block + SCALES)


@inline
def weights(notes, signs, k):
    return with_signs(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block) * np.float32(0.125)


FORMAT = grid_format("IQ2_XS", BLOCK_BYTES, 16, read_block, weights, super_scale)
