"""Keys and values as q8_0 or q4_0: integers of 8 or 4 bits and an f16 scale for 32 dimensions of one position.

    q8_0   x = d * q,         q = -127 .. 127,   d = max|x| / 127
    q4_0   x = d * (q - 8),   q = 0 .. 15,       d = the x farthest from 0, sign and all, / -8

These are ggml's blocks of 34 and 18 bytes, laid out for attention, but what they hold is turned first: H x, by a
Hadamard matrix of 32 x 32 signs, whose sums spread a large value over all dimensions of its group. Queries are turned
too, which leaves scores as they were (H H = 32), and results are turned back. What that gains is in docs/design.

A head's block, with G groups of 32 dimensions and head_dim padded to whole groups:

    keys          [2 panels][G] of q8_0 [8 lines][16 positions][4 dimensions] u8, q + 128
                                q4_0 [4 lines][16 positions][4 dimensions], line l: dims 4 l .. in the low nibbles,
                                     dims 16 + 4 l .. in the high ones
    their scales  [2 panels][G][16 positions] f16
    values        [G] of q8_0 [16 pairs of positions][32 dimensions][2 positions] i8
                         q4_0 [16 pairs of positions][16 dimensions][2 positions], dims 0 .. 15 in the low nibbles,
                              dims 16 .. 31 in the high ones
    their scales  [G][32 positions] f16

A byte belongs to one position, so positions are filed by themselves, on any thread.

A scale too large for f16 is kept as the largest f16; a NaN makes its scale NaN.

Accuracy: a value is off by half a step, |d| / 2, and one near an end of the range by what d's own rounding to f16 adds;
in q4_0 a value nearly as far from 0 as the one that set d, but on the other side, by up to |d|: the integers end at 7.
Source: ggml-quants.c `quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.kv.blocks import (
    BLOCK_TOKENS,
    PANEL_TOKENS,
)
from woolly_worker.kernels.simd import (
    absolute,
    add,
    as_f32x16,
    as_i32x16,
    bor,
    first_lane,
    hadamard,
    hmax,
    load_f16,
    load_first_f32x16,
    maximum,
    minimum,
    mul,
    narrow_to_i8,
    round_to_i32,
    shift_left,
    splat_f32x16,
    splat_i32x16,
    store_apart,
    store_bytes_apart,
    store_f16,
    sub,
    xor_bits,
)

GROUP = 32  # dimensions that share a scale
Q8_0_BYTES, Q4_0_BYTES = 32, 16  # the integers of a group of one position
LARGEST_F16 = np.float32(65504)


def turn_reference(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """H x for groups (..., 32): differences of dimensions 16 apart first, then of those 1, 2, 4 and 8 apart."""
    for step in (16, 1, 2, 4, 8):
        pairs = x.reshape(*x.shape[:-1], 32 // (2 * step), 2, step)
        both = [pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]]
        x = np.stack(both, axis=-2).reshape(x.shape)
    return x


def quantize_reference(x: npt.NDArray[np.float32], dtype: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """The definition, behind `turn_reference`: (..., 32) floats -> (..., 32) integers as bytes, and (..., 1) scales."""
    if dtype == "q8_0":
        d, least, most, offset = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127), -127, 127, 0
    else:
        farthest = np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)
        d, least, most, offset = farthest / np.float32(-8), -8, 7, 8
    kept = np.clip(d, -LARGEST_F16, LARGEST_F16).astype(np.float16)
    with np.errstate(divide="ignore"):
        inverse = np.where(kept == 0, np.float32(0), np.float32(1) / kept.astype(np.float32))
    return (np.clip(np.rint(x * inverse), least, most) + offset).astype(np.int8).view(np.uint8), kept


@inline
def key_scales_at(padded_dim, group_bytes):
    """Where keys' scales begin in a head's block."""
    return BLOCK_TOKENS * padded_dim // GROUP * group_bytes


@inline
def values_at(padded_dim, group_bytes):
    return BLOCK_TOKENS * padded_dim // GROUP * (group_bytes + 2)


@inline
def value_scales_at(padded_dim, group_bytes):
    return BLOCK_TOKENS * padded_dim // GROUP * (2 * group_bytes + 2)


@inline
def _file_scale(place, d):
    """d as f16, kept finite where it is a number; returns 1 / what was kept."""
    if d > LARGEST_F16:
        d = LARGEST_F16
    if d < -LARGEST_F16:
        d = -LARGEST_F16
    store_f16(place, d)
    kept = load_f16(place)
    return np.float32(0) if kept == np.float32(0) else np.float32(1) / kept


@inline
def _largest(x, y):
    """The largest magnitude; NaN if there is one, because integers compare like the positive floats they are."""
    magnitudes = maximum(as_i32x16(absolute(x)), as_i32x16(absolute(y)))
    return first_lane(as_f32x16(splat_i32x16(hmax(magnitudes))))


@inline
def _rounded(x, inverse, least, most):
    """x * inverse as integers between two floats."""
    scaled = mul(x, splat_f32x16(inverse))
    return round_to_i32(maximum(minimum(scaled, splat_f32x16(most)), splat_f32x16(least)))


@inline
def turned(low, high):
    """H times a group of 32."""
    return hadamard(add(low, high)), hadamard(sub(low, high))


@inline
def _quantize_q8_0(x, n, scale_place):
    """32 floats at x, of which the first n count, as two vectors of integers; their scale to its place."""
    low, high = turned(load_first_f32x16(x, n), load_first_f32x16(x + 64, n - 16))
    inverse = _file_scale(scale_place, _largest(low, high) / np.float32(127))
    least, most = np.float32(-127), np.float32(127)
    return _rounded(low, inverse, least, most), _rounded(high, inverse, least, most)


@inline
def _quantize_q4_0(x, n, scale_place):
    low, high = turned(load_first_f32x16(x, n), load_first_f32x16(x + 64, n - 16))
    largest = _largest(low, high)
    if hmax(maximum(low, high)) < largest:  # the farthest is negative
        largest = -largest
    inverse = _file_scale(scale_place, largest / np.float32(-8))
    least, most, eight = np.float32(-8), np.float32(7), splat_i32x16(np.int32(8))
    return add(_rounded(low, inverse, least, most), eight), add(_rounded(high, inverse, least, most), eight)


@inline
def _file_key_q8_0(low, high, lines, lane):
    store_apart(lines + 4 * lane, 64, xor_bits(narrow_to_i8(low), 0x80))
    store_apart(lines + 256 + 4 * lane, 64, xor_bits(narrow_to_i8(high), 0x80))


@inline
def _file_key_q4_0(low, high, lines, lane):
    store_apart(lines + 4 * lane, 64, narrow_to_i8(bor(low, shift_left(high, 4))))


@inline
def _file_value_q8_0(low, high, pairs, inside):
    pair = pairs + inside // 2 * 64 + inside % 2
    store_bytes_apart(pair, 2, narrow_to_i8(low))
    store_bytes_apart(pair + 32, 2, narrow_to_i8(high))


@inline
def _file_value_q4_0(low, high, pairs, inside):
    store_bytes_apart(pairs + inside // 2 * 32 + inside % 2, 2, narrow_to_i8(bor(low, shift_left(high, 4))))


@inline
def _file_head(keys, values, head, inside, head_dim, padded_dim, group_bytes, quantize, file_key, file_value):
    n_groups, panel, lane = padded_dim // GROUP, inside // PANEL_TOKENS, inside % PANEL_TOKENS
    key_scales, value_scales = (
        head + key_scales_at(padded_dim, group_bytes),
        head + value_scales_at(padded_dim, group_bytes),
    )
    for g in range(n_groups):
        n, key_group = head_dim - GROUP * g, panel * n_groups + g
        low, high = quantize(keys + 4 * GROUP * g, n, key_scales + 2 * (PANEL_TOKENS * key_group + lane))
        file_key(low, high, head + PANEL_TOKENS * group_bytes * key_group, lane)
        low, high = quantize(values + 4 * GROUP * g, n, value_scales + 2 * (BLOCK_TOKENS * g + inside))
        file_value(low, high, head + values_at(padded_dim, group_bytes) + BLOCK_TOKENS * group_bytes * g, inside)


@inline
def file_head_q8_0(keys, values, head, inside, head_dim, padded_dim):
    _file_head(
        keys, values, head, inside, head_dim, padded_dim, Q8_0_BYTES, _quantize_q8_0, _file_key_q8_0, _file_value_q8_0
    )


@inline
def file_head_q4_0(keys, values, head, inside, head_dim, padded_dim):
    _file_head(
        keys, values, head, inside, head_dim, padded_dim, Q4_0_BYTES, _quantize_q4_0, _file_key_q4_0, _file_value_q4_0
    )
