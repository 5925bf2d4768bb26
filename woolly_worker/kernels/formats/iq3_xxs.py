"""IQ3_XXS: 256 weights in 98 bytes, eight runs of 32 with a 4-bit scale each.

    bytes   0.. 2  d      f16
            2..66  qs     an index into the grid of 256 for every four weights
           66..98  words  u32 for each run: four times seven signs from bit 0 on, the scale s in bits 28..32

    weight = d * (0.5 + s) / 2 * (+-magnitude) = d / 4 * (2 s + 1) * (+-magnitude)

Source: ggml-common.h `block_iq3_xxs`, ggml-quants.c `dequantize_row_iq3_xxs`.
"""

import numpy as np

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import even_signs, for_both_halves, magnitudes, odd, with_signs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    concat,
    grid_verbs,
    load_f16,
    load_i8x32,
    load_i32x8,
    shift_right,
    word_of,
    zero_extend_to_i16,
)

BLOCK_BYTES = 98
QS, WORDS = 2, 66

note, entries = grid_verbs("iq3_xxs", lambda: magnitudes("IQ3_XXS"))


@inline
def read_block(block):
    words = load_i32x8(block + WORDS)
    notes = concat(
        note(zero_extend_to_i16(load_i8x32(block + QS))), note(zero_extend_to_i16(load_i8x32(block + QS + 32)))
    )
    signs = even_signs(words)
    return notes, signs, for_both_halves(odd(shift_right(words, 28)))


@inline
def weights(notes, signs, k):
    return with_signs(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block) * np.float32(0.25)


FORMAT = grid_format("IQ3_XXS", BLOCK_BYTES, 32, read_block, weights, super_scale)
