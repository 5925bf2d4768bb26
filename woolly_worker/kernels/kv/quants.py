"""Keys and values as q8_0 or q4_0: integers of 8 or 4 bits and an f16 scale for 32 dimensions of one position.

    q8_0   x = d * q,         q = -127 .. 127,   d = max|x| / 127
    q4_0   x = d * (q - 8),   q = 0 .. 15,       d = the x farthest from 0, sign and all, / -8

These are ggml's blocks of 34 and 18 bytes, laid out for attention, but what they hold is turned first: H x, by a
Hadamard matrix of 32 x 32 signs, whose sums spread a large value over all dimensions of its group. Queries are turned
too, which leaves scores as they were (H H = 32), and results are turned back. What it gains is in the design note.
 A head's block, with G groups of 32 dimensions and
head_dim padded to whole groups:

    keys          [2 panels][G] of q8_0 [8 lines][16 positions][4 dimensions] u8, q + 128
                                q4_0 [4 lines][16 positions][4 dimensions], line l: dims 4 l .. in the low nibbles,
                                     dims 16 + 4 l .. in the high ones
    their scales  [2 panels][G][16 positions] f16
    values        [G] of q8_0 [16 pairs of positions][32 dimensions][2 positions] i8
                         q4_0 [16 pairs of positions][16 dimensions][2 positions], dims 0 .. 15 in the low nibbles,
                              dims 16 .. 31 in the high ones
    their scales  [G][32 positions] f16

A byte belongs to one position, so positions are filed by themselves, on any thread.

Both sums of attention are integer inside a group, exact in any order. For scores the query is rounded to 8 bits as
`quantize.py` does, like ggml. For values a round's weights, times the values' scales, are rounded to 16 bits of the
largest of them: i16 x i8 into i32, at most 32,767 * 127 * 128 < 2**31 in a round of 128 positions.

A scale too large for f16 is kept as the largest f16; a NaN makes its scale NaN.

Accuracy: a value is off by half a step, |d| / 2, and one near an end of the range by what d's own rounding to f16 adds;
in q4_0 a value nearly as far from 0 as the one that set d, but on the other side, by up to |d|: the integers end at 7.
Source: ggml-quants.c `quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.activations import Q8_BYTES, Q8_SCALE, Q8_SUM
from woolly_worker.kernels.jit import inline, kernel
from woolly_worker.kernels.kv.blocks import (
    BLOCK_TOKENS,
    PACKED,
    PACKED_BYTES,
    PACKED_PLAIN,
    PACKED_SCALE,
    PANEL_TOKENS,
    RECORDS,
    SCORES,
    SCORES_STRIDE,
    SUMS,
    ahead_of,
    head_of,
    records_bytes,
    row_bytes,
    seen_of,
)
from woolly_worker.kernels.quantize import quantize_q8
from woolly_worker.kernels.simd import (
    absolute,
    add,
    and_bits,
    as_f32x16,
    as_i32x16,
    bor,
    first_lane,
    first_lanes_or,
    hadamard,
    hmax,
    load_f16,
    load_f16x16,
    load_f32x16,
    load_first_f32x16,
    load_i8x32,
    load_i32x16,
    maximum,
    minimum,
    minus_literal,
    mul,
    narrow_to_i8,
    narrow_to_i16,
    prefetch,
    round_to_i32,
    shift_left,
    shift_right,
    sign_extend_to_i16,
    splat_f32x16,
    splat_i32x16,
    store,
    store_apart,
    store_bytes_apart,
    store_f16,
    store_f32,
    sub,
    to_f32,
    xor_bits,
    zero_extend_to_i16,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import (
    accumulate_each,
    dot_bytes_each,
    dot_shorts_each,
    load_each,
    store_each,
    sub_splat_each,
    zeros_f32_like,
    zeros_i32_like,
)
from woolly_worker.kernels.step import field

GROUP = 32  # dimensions that share a scale
Q8_0_BYTES, Q4_0_BYTES = 32, 16  # the integers of a group of one position
LARGEST_F16 = np.float32(65504)
SMALLEST_WEIGHT = np.float32(1e-34)  # 32,767 / SMALLEST_WEIGHT is just below the largest f32


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
def _key_scales(padded_dim, group_bytes):
    """Where keys' scales begin in a head's block."""
    return BLOCK_TOKENS * padded_dim // GROUP * group_bytes


@inline
def _values(padded_dim, group_bytes):
    return BLOCK_TOKENS * padded_dim // GROUP * (group_bytes + 2)


@inline
def _value_scales(padded_dim, group_bytes):
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
def _turned(low, high):
    """H times a group of 32."""
    return hadamard(add(low, high)), hadamard(sub(low, high))


@inline
def _quantize_q8_0(x, n, scale_place):
    """32 floats at x, of which the first n count, as two vectors of integers; their scale to its place."""
    low, high = _turned(load_first_f32x16(x, n), load_first_f32x16(x + 64, n - 16))
    inverse = _file_scale(scale_place, _largest(low, high) / np.float32(127))
    least, most = np.float32(-127), np.float32(127)
    return _rounded(low, inverse, least, most), _rounded(high, inverse, least, most)


@inline
def _quantize_q4_0(x, n, scale_place):
    low, high = _turned(load_first_f32x16(x, n), load_first_f32x16(x + 64, n - 16))
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
        head + _key_scales(padded_dim, group_bytes),
        head + _value_scales(padded_dim, group_bytes),
    )
    for g in range(n_groups):
        n, key_group = head_dim - GROUP * g, panel * n_groups + g
        low, high = quantize(keys + 4 * GROUP * g, n, key_scales + 2 * (PANEL_TOKENS * key_group + lane))
        file_key(low, high, head + PANEL_TOKENS * group_bytes * key_group, lane)
        low, high = quantize(values + 4 * GROUP * g, n, value_scales + 2 * (BLOCK_TOKENS * g + inside))
        file_value(low, high, head + _values(padded_dim, group_bytes) + BLOCK_TOKENS * group_bytes * g, inside)


@inline
def _turn(row, padded_dim):
    """Every group of a row by H / 32, in place: what undoes H, and what makes H q . H k of q . k."""
    share = splat_f32x16(np.float32(1 / GROUP))
    for k in range(0, padded_dim, GROUP):
        low, high = _turned(load_f32x16(row + 4 * k), load_f32x16(row + 4 * k + 64))
        store(row + 4 * k, mul(low, share))
        store(row + 4 * k + 64, mul(high, share))


@inline
def prepare(q, records, padded_dim):
    """The query turned, and rounded to 8 bits for every 32 dimensions."""
    _turn(q, padded_dim)
    quantize_q8(q, padded_dim, records)


@inline
def finish(row, padded_dim):
    """Sums of turned values are turned back."""
    _turn(row, padded_dim)


@inline
def _dot_q8_0(lines, x, stride, ahead, tile):
    """Sixteen keys' group times all queries', in integers."""
    s = zeros_i32_like(tile)
    for line in range(8):
        prefetch(ahead + 64 * line)
        s = dot_bytes_each(s, load_i32x16(lines + 64 * line), x + 4 * line, stride)
    return sub_splat_each(s, x + Q8_SUM, stride, 128)


@inline
def _dot_q4_0(lines, x, stride, ahead, tile):
    s = zeros_i32_like(tile)
    for line in range(4):
        prefetch(ahead + 64 * line)
        both = load_i32x16(lines + 64 * line)
        s = dot_bytes_each(s, and_bits(both, 0x0F0F0F0F), x + 4 * line, stride)
        s = dot_bytes_each(s, and_bits(shift_right(both, 4), 0x0F0F0F0F), x + 16 + 4 * line, stride)
    return sub_splat_each(s, x + Q8_SUM, stride, 8)


@inline
def _score_block(work, head, ahead, scores, n_panels, padded_dim, group_bytes, dot, tile):
    n_groups, stride = padded_dim // GROUP, records_bytes(padded_dim)
    scales = _key_scales(padded_dim, group_bytes)
    for panel in range(n_panels):
        acc = zeros_f32_like(tile)
        for g in range(n_groups):
            x, group = field(work, RECORDS) + Q8_BYTES * g, panel * n_groups + g
            lines = PANEL_TOKENS * group_bytes * group
            s = dot(head + lines, x, stride, ahead + lines, tile)
            d = to_f32(load_f16x16(head + scales + 2 * PANEL_TOKENS * group))
            prefetch(ahead + scales + 2 * PANEL_TOKENS * group)
            acc = accumulate_each(acc, d, x + Q8_SCALE, stride, s)
        store_each(scores + 4 * PANEL_TOKENS * panel, SCORES_STRIDE, acc)


@kernel
def pack_weights(work, weights, scales, n_seen, n, packed):
    """A round's weights of one query, times the values' scales, as i16 and one scale: see PACKED_BYTES.

    scales  where the group's scales lie in a head's block
    n_seen  positions that the query sees; n >= n_seen, a multiple of 16, how many integers are written
    """
    plain, magnitudes = packed + PACKED_PLAIN, zero_i32x16()
    for p in range(0, n, 16):
        block = head_of(work, p // BLOCK_TOKENS)
        d = to_f32(load_f16x16(block + scales + 2 * (p % BLOCK_TOKENS)))
        x = mul(load_f32x16(weights + 4 * p), d)
        if n_seen < p + 16:
            x = first_lanes_or(x, n_seen - p, np.float32(0))
        store(plain + 4 * p, x)
        magnitudes = maximum(magnitudes, as_i32x16(absolute(x)))
    largest = first_lane(as_f32x16(splat_i32x16(hmax(magnitudes))))
    inverse = np.float32(0) if largest < SMALLEST_WEIGHT else np.float32(32767) / largest
    for p in range(0, n, 16):
        x = mul(load_f32x16(plain + 4 * p), splat_f32x16(inverse))
        store(packed + 2 * p, narrow_to_i16(round_to_i32(x)))
    store_f32(packed + PACKED_SCALE, np.float32(0) if largest < SMALLEST_WEIGHT else largest / np.float32(32767))


@inline
def _pair_q8_0(pairs, pair, ahead):
    """The values of two positions: dimensions 0 .. 15, and 16 .. 31, two i16 in each lane."""
    prefetch(ahead + 64 * pair)
    return sign_extend_to_i16(load_i8x32(pairs + 64 * pair)), sign_extend_to_i16(load_i8x32(pairs + 64 * pair + 32))


@inline
def _pair_q4_0(pairs, pair, ahead):
    prefetch(ahead + 32 * pair)
    both = zero_extend_to_i16(load_i8x32(pairs + 32 * pair))
    return minus_literal(and_bits(both, 15), 8), minus_literal(shift_right(both, 4), 8)


@inline
def _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, group_bytes, load_pair, tile):
    stride, n_pairs = row_bytes(padded_dim), (n_here + 1) // 2
    one = splat_f32x16(np.float32(1))
    for g in range(padded_dim // GROUP):
        scales = _value_scales(padded_dim, group_bytes) + 2 * BLOCK_TOKENS * g
        for i in range(n_tokens * n_heads):
            weights, packed = field(work, SCORES) + SCORES_STRIDE * i, field(work, PACKED) + PACKED_BYTES * i
            seen = seen_of(position, i, n_heads, start)
            pack_weights(work, weights, scales, seen, (n_here + 15) // 16 * 16, packed)
        low, high = zeros_i32_like(tile), zeros_i32_like(tile)
        for first in range(0, n_pairs, BLOCK_TOKENS // 2):
            block, at = 2 * first // BLOCK_TOKENS, _values(padded_dim, group_bytes) + BLOCK_TOKENS * group_bytes * g
            pairs, ahead = head_of(work, block) + at, ahead_of(work, block) + at
            prefetch(ahead_of(work, block) + scales)
            for pair in range(min(n_pairs - first, BLOCK_TOKENS // 2)):
                here, there = load_pair(pairs, pair, ahead)
                weights = field(work, PACKED) + 4 * (first + pair)
                low = dot_shorts_each(low, here, weights, PACKED_BYTES)
                high = dot_shorts_each(high, there, weights, PACKED_BYTES)
        sums, scale = field(work, SUMS) + 4 * GROUP * g, field(work, PACKED) + PACKED_SCALE
        store_each(sums, stride, accumulate_each(load_each(sums, stride, tile), one, scale, PACKED_BYTES, low))
        sums += 64
        store_each(sums, stride, accumulate_each(load_each(sums, stride, tile), one, scale, PACKED_BYTES, high))


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


@inline
def score_block_q8_0(work, head, ahead, scores, n_panels, head_dim, padded_dim, tile):
    _score_block(work, head, ahead, scores, n_panels, padded_dim, Q8_0_BYTES, _dot_q8_0, tile)


@inline
def score_block_q4_0(work, head, ahead, scores, n_panels, head_dim, padded_dim, tile):
    _score_block(work, head, ahead, scores, n_panels, padded_dim, Q4_0_BYTES, _dot_q4_0, tile)


@inline
def add_values_q8_0(work, position, n_tokens, n_heads, start, n_here, padded_dim, tile):
    _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, Q8_0_BYTES, _pair_q8_0, tile)


@inline
def add_values_q4_0(work, position, n_tokens, n_heads, start, n_here, padded_dim, tile):
    _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, Q4_0_BYTES, _pair_q4_0, tile)
