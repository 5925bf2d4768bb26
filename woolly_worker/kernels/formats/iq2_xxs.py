"""IQ2_XXS: 256 weights in 66 bytes, eight runs of 32 with a 4-bit scale each.

    bytes   0.. 2  d   f16
            2..66  qs  for each run of 32 weights
                       bytes 0..4  an index into the grid of 256 for every eight weights
                             4..8  u32: four times seven signs from bit 0 on, the scale s in bits 28..32

    weight = d * (0.5 + s) / 4 * (+-magnitude) = d / 8 * (2 s + 1) * (+-magnitude)

Source: ggml-common.h `block_iq2_xxs`, ggml-quants.c `dequantize_row_iq2_xxs`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import even_signs, for_both_halves, magnitudes, odd, with_signs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    as_i8x32,
    grid_verbs,
    load_f16,
    load_i32x16,
    shift_right,
    spread,
    word_of,
    zero_extend_to_i16,
)

BLOCK_BYTES = 66
QS = 2

note, entries = grid_verbs("iq2_xxs", lambda: magnitudes("IQ2_XXS"))


@inline
def read_block(block):
    both = load_i32x16(block + QS)
    indices, words = spread(both, "02468ace"), spread(both, "13579bdf")
    notes = note(zero_extend_to_i16(as_i8x32(indices)))
    signs = even_signs(words)
    return notes, signs, for_both_halves(odd(shift_right(words, 28)))


@inline
def weights(notes, signs, k):
    return with_signs(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block) * np.float32(0.125)


FORMAT = grid_format("IQ2_XXS", BLOCK_BYTES, 32, read_block, weights, super_scale)
