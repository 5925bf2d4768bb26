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


# Of sixteen rows: s0, s1 and s2 hold bytes 0..4, 4..8 and 8..12; the results have four bytes a lane. Scales and mins
# 0..3 are the low six bits of s0 and s1; those of 4..7 are four bits of s2 and two high bits.


@inline
def first_scales(s0):
    return and_bits(s0, 0x3F3F3F3F)


@inline
def last_scales(s0, s2):
    return bor(and_bits(s2, 0x0F0F0F0F), and_bits(shift_right(s0, 2), 0x30303030))


@inline
def first_mins(s1):
    return and_bits(s1, 0x3F3F3F3F)


@inline
def last_mins(s1, s2):
    return bor(and_bits(shift_right(s2, 4), 0x0F0F0F0F), and_bits(shift_right(s1, 2), 0x30303030))


@inline
def _store_bytes(place, x):
    """Four bytes a lane as four vectors."""
    store(place, and_bits(x, 255))
    store(place + 64, and_bits(shift_right(x, 8), 255))
    store(place + 128, and_bits(shift_right(x, 16), 255))
    store(place + 192, shift_right(x, 24))


@inline
def unpack_scales(d_and_dmin, s0, s1, s2, panel):
    """The scales and mins of sixteen rows into their panel."""
    store(panel + PANEL_D, low_halves_f32(d_and_dmin))
    store(panel + PANEL_DMIN, high_halves_f32(d_and_dmin))
    _store_bytes(panel + PANEL_SCALES, first_scales(s0))
    _store_bytes(panel + PANEL_SCALES + 256, last_scales(s0, s2))
    store_pairs(panel + PANEL_MINS, first_mins(s1))
    store_pairs(panel + PANEL_MINS + 128, last_mins(s1, s2))


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
