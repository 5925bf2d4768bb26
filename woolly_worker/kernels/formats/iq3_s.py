"""IQ3_S: 256 weights in 110 bytes, eight runs of 32 with a 4-bit scale each.

    bytes    0..  2  d       f16
             2.. 66  qs      the low eight bits of an index into the grid of 512, for every four weights
            66.. 74  qh      the ninth bit of eight indices in each byte
            74..106  signs   a bit for each weight
           106..110  scales  a nibble s for each run, the low one first

    weight = d * (2 s + 1) * (+-magnitude)

Source: ggml-common.h `block_iq3_s`, ggml-quants.c `dequantize_row_iq3_s`.
"""

from woolly_worker.kernels.formats.grid_loops import grid_format
from woolly_worker.kernels.formats.grids import eight_nibbles, magnitudes, with_signs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    choose,
    concat,
    grid_verbs,
    load_f16,
    load_i8x32,
    load_i32,
    or_bits,
    word_of,
    zero_extend_to_i16,
)

BLOCK_BYTES = 110
QS, QH, QS_SIGNS, SCALES = 2, 66, 74, 106

note, entries = grid_verbs("iq3_s", lambda: magnitudes("IQ3_S"))


@inline
def _indices(low, high):
    """32 indices: their low bytes, and a bit for each."""
    q = zero_extend_to_i16(low)
    return choose(high, or_bits(q, 256), q)


@inline
def read_block(block):
    first = _indices(load_i8x32(block + QS), load_i32(block + QH))
    last = _indices(load_i8x32(block + QS + 32), load_i32(block + QH + 4))
    notes = concat(note(first), note(last))
    signs = load_i8x32(block + QS_SIGNS)
    return notes, signs, eight_nibbles(block + SCALES)


@inline
def weights(notes, signs, k):
    return with_signs(entries(notes, k), word_of(signs, k))


@inline
def super_scale(block):
    return load_f16(block)


FORMAT = grid_format("IQ3_S", BLOCK_BYTES, 32, read_block, weights, super_scale)
