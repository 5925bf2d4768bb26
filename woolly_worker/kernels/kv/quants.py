"""Attention over keys and values of 8 or 4 bits, which lie as `quant_blocks.py` says.

Both sums of attention are integer inside a group, exact in any order. For scores the query is rounded to 8 bits as
`quantize.py` does, like ggml. For values a round's weights, times the values' scales, are rounded to 16 bits of the
largest of them: i16 x i8 into i32, at most 32,767 * 127 * 128 < 2**31 in a round of 128 positions.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN, Q8_SCALES, Q8_SUMS, Q8_VALUES
from woolly_worker.kernels.jit import inline, subroutine
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
from woolly_worker.kernels.kv.quant_blocks import (
    GROUP,
    Q4_0_BYTES,
    Q8_0_BYTES,
    key_scales_at,
    turned,
    value_scales_at,
    values_at,
)
from woolly_worker.kernels.quantize import into_q8
from woolly_worker.kernels.simd import (
    absolute,
    accumulate_each,
    and_bits,
    as_f32x16,
    as_i32x16,
    dot_bytes_each,
    dot_shorts_each,
    first_lane,
    first_lanes_or,
    hmax,
    load_each,
    load_f16x16,
    load_f32x16,
    load_i8x32,
    load_i32x16,
    maximum,
    minus_literal,
    mul,
    narrow_to_i16,
    part_of,
    prefetch,
    round_to_i32,
    shift_right,
    sign_extend_to_i16,
    splat_f32x16,
    splat_i32x16,
    store,
    store_each,
    store_f32,
    sub_shifted_each,
    sub_splat_each,
    tile_size,
    to_f32,
    xor_bits,
    zero_extend_to_i16,
    zero_i32x16,
    zeros_f32_like,
    zeros_i32_like,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS
from woolly_worker.kernels.step import field

RUNS = Q8_VALUES // Q8_RUN
SMALLEST_WEIGHT = np.float32(1e-34)  # 32,767 / SMALLEST_WEIGHT is just below the largest f32


@inline
def _turn(row, padded_dim):
    """Every group of a row by H / 32, in place: what undoes H, and what makes H q . H k of q . k."""
    share = splat_f32x16(np.float32(1 / GROUP))
    for k in range(0, padded_dim, GROUP):
        low, high = turned(load_f32x16(row + 4 * k), load_f32x16(row + 4 * k + 64))
        store(row + 4 * k, mul(low, share))
        store(row + 4 * k + 64, mul(high, share))


@inline
def prepare(q, records, padded_dim):
    """The query turned, and rounded to 8 bits for every 32 dimensions."""
    _turn(q, padded_dim)
    into_q8(q, padded_dim, records)


@inline
def finish(row, padded_dim):
    """Sums of turned values are turned back."""
    _turn(row, padded_dim)


if IN_SHORTS:

    @inline
    def _dot_q8_0(lines, x, sums, stride, ahead, tile):
        """Sixteen keys' group times all queries', in integers. Signed, so that the queries' sums are not needed."""
        s = zeros_i32_like(tile)
        for line in range(8):
            prefetch(ahead + 64 * line)
            keys = xor_bits(load_i32x16(lines + 64 * line), 0x80808080)
            s = dot_bytes_each(s, keys, x + 4 * line, stride, None)
        return s

else:

    @inline
    def _dot_q8_0(lines, x, sums, stride, ahead, tile):
        """Sixteen keys' group times all queries', in integers."""
        s = zeros_i32_like(tile)
        for line in range(8):
            prefetch(ahead + 64 * line)
            s = dot_bytes_each(s, load_i32x16(lines + 64 * line), x + 4 * line, stride, 255)
        return sub_splat_each(s, sums, stride, 1)


@inline
def _dot_q4_0(lines, x, sums, stride, ahead, tile):
    s = zeros_i32_like(tile)
    for line in range(4):
        prefetch(ahead + 64 * line)
        both = load_i32x16(lines + 64 * line)
        s = dot_bytes_each(s, and_bits(both, 0x0F0F0F0F), x + 4 * line, stride, 15)
        s = dot_bytes_each(s, and_bits(shift_right(both, 4), 0x0F0F0F0F), x + 16 + 4 * line, stride, 15)
    return sub_shifted_each(s, sums, stride, 4)


@inline
def _score_block(work, head, ahead, scores, n_panels, padded_dim, group_bytes, dot, tile):
    n_groups, stride = padded_dim // GROUP, records_bytes(padded_dim)
    scales = key_scales_at(padded_dim, group_bytes)
    part = part_of(tile)
    for panel in range(n_panels):
        for i in range(0, tile_size(tile), tile_size(part)):
            acc = zeros_f32_like(part)
            for g in range(n_groups):
                record, run = field(work, RECORDS) + i * stride + g // RUNS * Q8_BYTES, g % RUNS
                group = panel * n_groups + g
                lines, x, sums = PANEL_TOKENS * group_bytes * group, record + Q8_RUN * run, record + Q8_SUMS + 4 * run
                s = dot(head + lines, x, sums, stride, ahead + lines, part)
                d = to_f32(load_f16x16(head + scales + 2 * PANEL_TOKENS * group))
                prefetch(ahead + scales + 2 * PANEL_TOKENS * group)
                acc = accumulate_each(acc, d, record + Q8_SCALES + 4 * run, stride, s)
            store_each(scores + i * SCORES_STRIDE + 4 * PANEL_TOKENS * panel, SCORES_STRIDE, acc)


@subroutine
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
    stride, n_pairs, part = row_bytes(padded_dim), (n_here + 1) // 2, part_of(tile)
    one = splat_f32x16(np.float32(1))
    for g in range(padded_dim // GROUP):
        scales = value_scales_at(padded_dim, group_bytes) + 2 * BLOCK_TOKENS * g
        for i in range(n_tokens * n_heads):
            weights, packed = field(work, SCORES) + SCORES_STRIDE * i, field(work, PACKED) + PACKED_BYTES * i
            seen = seen_of(position, i, n_heads, start)
            pack_weights(work, weights, scales, seen, (n_here + 15) // 16 * 16, packed)
        for i in range(0, tile_size(tile), tile_size(part)):
            low, high = zeros_i32_like(part), zeros_i32_like(part)
            packed = field(work, PACKED) + i * PACKED_BYTES
            for first in range(0, n_pairs, BLOCK_TOKENS // 2):
                block = 2 * first // BLOCK_TOKENS
                at = values_at(padded_dim, group_bytes) + BLOCK_TOKENS * group_bytes * g
                pairs, ahead = head_of(work, block) + at, ahead_of(work, block) + at
                prefetch(ahead_of(work, block) + scales)
                for pair in range(min(n_pairs - first, BLOCK_TOKENS // 2)):
                    here, there = load_pair(pairs, pair, ahead)
                    weights = packed + 4 * (first + pair)
                    low = dot_shorts_each(low, here, weights, PACKED_BYTES)
                    high = dot_shorts_each(high, there, weights, PACKED_BYTES)
            sums, scale = field(work, SUMS) + i * stride + 4 * GROUP * g, packed + PACKED_SCALE
            store_each(sums, stride, accumulate_each(load_each(sums, stride, part), one, scale, PACKED_BYTES, low))
            sums += 64
            store_each(sums, stride, accumulate_each(load_each(sums, stride, part), one, scale, PACKED_BYTES, high))


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
