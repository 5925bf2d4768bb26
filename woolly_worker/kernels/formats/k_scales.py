"""The packed scales and mins of Q4_K and Q5_K: eight of six bits each, in twelve bytes behind d and dmin.

    bytes 0..4    scales 0..3 in the low six bits, the two high bits of scales 4..7 above them
          4..8    mins 0..3, and the high bits of mins 4..7
          8..12   the low four bits of scales 4..7, and those of mins 4..7 above them

Source: ggml-quants.c `get_scale_min_k4`.
"""

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    band,
    bor,
    high_halves_f32,
    in_quarters,
    load_u8,
    low_halves_f32,
    shift_left,
    shift_right,
    shift_right_in_quarters,
    spread,
    store,
)

PANEL_SCALES = 4096  # i32 x 16 rows, for each of 8 sub-blocks
PANEL_MINS = PANEL_SCALES + 8 * 64  # pairs of i16 for sub-blocks (0, 1), (2, 3), ... x 16 rows
PANEL_D = PANEL_MINS + 4 * 64  # f32 x 16 rows
PANEL_DMIN = PANEL_D + 64
PANEL_BLOCK_BYTES = PANEL_DMIN + 64


@inline
def unpack_scales(d_and_dmin, s0, s1, s2, panel):
    """The twelve packed bytes of sixteen rows: s0, s1, s2 hold bytes 0..4, 4..8 and 8..12."""
    store(panel + PANEL_D, low_halves_f32(d_and_dmin))
    store(panel + PANEL_DMIN, high_halves_f32(d_and_dmin))
    # Scales and mins 0..3 are the low six bits of s0 and s1; those of 4..7 are four bits of s2 and two high bits.
    # Shifts by 8 j pick byte j; they are written out because a verb's literal must be one.
    store(panel + PANEL_SCALES, and_bits(s0, 63))
    store(panel + PANEL_SCALES + 64, and_bits(shift_right(s0, 8), 63))
    store(panel + PANEL_SCALES + 128, and_bits(shift_right(s0, 16), 63))
    store(panel + PANEL_SCALES + 192, and_bits(shift_right(s0, 24), 63))
    last_scales = bor(and_bits(s2, 0x0F0F0F0F), shift_left(and_bits(shift_right(s0, 6), 0x03030303), 4))
    last_mins = bor(and_bits(shift_right(s2, 4), 0x0F0F0F0F), shift_left(and_bits(shift_right(s1, 6), 0x03030303), 4))
    store(panel + PANEL_SCALES + 256, and_bits(last_scales, 63))
    store(panel + PANEL_SCALES + 320, and_bits(shift_right(last_scales, 8), 63))
    store(panel + PANEL_SCALES + 384, and_bits(shift_right(last_scales, 16), 63))
    store(panel + PANEL_SCALES + 448, and_bits(shift_right(last_scales, 24), 63))
    first_mins = and_bits(s1, 0x3F3F3F3F)
    store_pairs(panel + PANEL_MINS, first_mins)
    store_pairs(panel + PANEL_MINS + 128, last_mins)


@inline
def store_pairs(place, mins):
    """Four bytes a lane as two vectors of 16-bit pairs: (byte 0, byte 1) and (byte 2, byte 3). Shared with Q2_K."""
    store(place, bor(and_bits(mins, 63), shift_left(and_bits(mins, 0x3F00), 8)))
    store(place + 64, bor(and_bits(shift_right(mins, 16), 63), shift_right(and_bits(mins, 0x3F000000), 8)))


@inline
def low_scales(heads):
    """Of sub-blocks 0..3: word 1 of each quarter has four scales, word 2 four mins, a byte each; the rest is zero."""
    return band(heads, in_quarters(0, 0x3F3F3F3F, 0x3F3F3F3F, 0))


@inline
def high_scales(heads):
    """The same of sub-blocks 4..7: four bits from the last word, two from the top of the others."""
    last = shift_right_in_quarters(spread(heads, "033347778bbbcfff"), 0, 0, 4, 0)
    top = band(shift_right(heads, 2), in_quarters(0, 0x30303030, 0x30303030, 0))
    return bor(band(last, in_quarters(0, 0x0F0F0F0F, 0x0F0F0F0F, 0)), top)


@inline
def scale_and_min(block, j):
    """Sub-block j's scale and min, as ggml's `get_scale_min_k4` reads them."""
    if j < 4:
        return load_u8(block + 4 + j) & 63, load_u8(block + 8 + j) & 63
    scale = (load_u8(block + 8 + j) & 15) | ((load_u8(block + j) >> 6) << 4)
    low = (load_u8(block + 8 + j) >> 4) | ((load_u8(block + 4 + j) >> 6) << 4)
    return scale, low
