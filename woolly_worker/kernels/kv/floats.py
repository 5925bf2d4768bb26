"""Keys and values as f16 or f32. A head's block holds K as [2 panels][head_dim][16 positions], then V as
[32 positions][head_dim], head_dim padded to whole vectors of 16.

    score[i]  = sum over d of k[d] * q[i, d]                in order of d
    sums[i]  += w[i, p] * v[p]                              in order of p, and only where query i sees p

A value too large for f16 is kept as the largest f16, 65,504, with its sign; NaN stays NaN.
"""

import numpy as np

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.kv.blocks import (
    BLOCK_TOKENS,
    PANEL_TOKENS,
    SCALED,
    SCORES,
    SCORES_STRIDE,
    SUMS,
    ahead_of,
    head_of,
    row_bytes,
    seen_of,
)
from woolly_worker.kernels.simd import (
    fma,
    fma_splat_each,
    load_each,
    load_f16x16,
    load_f32,
    load_f32x16,
    part_of,
    prefetch,
    splat_f32x16,
    store,
    store_each,
    store_f16,
    store_f32,
    tile_size,
    to_f32,
    zeros_f32_like,
)
from woolly_worker.kernels.step import field

LARGEST_F16 = np.float32(65504)
# Every third line of the values ahead is asked for with their keys: see matmul.ASKS_EARLY.
ASKS_EARLY = CPU.asks_ahead
EARLY_STEP = 6  # columns of a panel's keys, where two in f16 are a line


@inline
def _file_head(keys, values, head, inside, head_dim, padded_dim, item_bytes, store_item):
    panel, lane = inside // PANEL_TOKENS, inside % PANEL_TOKENS
    key_lane = head + (panel * padded_dim * PANEL_TOKENS + lane) * item_bytes
    value_row = head + (BLOCK_TOKENS + inside) * padded_dim * item_bytes
    for d in range(head_dim):
        store_item(key_lane + d * PANEL_TOKENS * item_bytes, load_f32(keys + 4 * d))
        store_item(value_row + d * item_bytes, load_f32(values + 4 * d))


@inline
def prepare(q, records, padded_dim):
    """Nothing: keys are multiplied by the query's floats. Only its first head_dim lanes are ever read."""


@inline
def finish(row, padded_dim):
    """Nothing: sums of values are what they are."""


@inline
def _score_block(work, head, ahead, scores, n_panels, head_dim, padded_dim, item_bytes, load, tile):
    q, q_stride, line = field(work, SCALED), 4 * padded_dim, PANEL_TOKENS * item_bytes
    part = part_of(tile)
    asks_early = ASKS_EARLY and tile_size(tile) <= 2  # with more queries, products take longer than reading
    for panel in range(n_panels):
        start = panel * padded_dim * line
        for i in range(0, tile_size(tile), tile_size(part)):
            acc, row = zeros_f32_like(part), q + i * q_stride
            for d in range(0, head_dim, 2):  # head_dim is even, because heads turn in pairs
                if i == 0:
                    prefetch(ahead + start + d * line)
                    if asks_early and d % EARLY_STEP == 0:
                        prefetch(ahead + BLOCK_TOKENS * padded_dim * item_bytes + start + d * line)
                acc = fma_splat_each(acc, load(head + start + d * line), row + 4 * d, q_stride)
                acc = fma_splat_each(acc, load(head + start + (d + 1) * line), row + 4 * d + 4, q_stride)
            store_each(scores + i * SCORES_STRIDE + 4 * PANEL_TOKENS * panel, SCORES_STRIDE, acc)


@inline
def _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, item_bytes, load, tile):
    """Block by block: first the positions that every query sees, all queries together; then, next to the end of a
    chunk, those that only its later tokens see. What a query does not see is never touched, be it infinite or NaN."""
    stride, part = row_bytes(padded_dim), part_of(tile)
    for first in range(0, n_here, BLOCK_TOKENS):
        block = first // BLOCK_TOKENS
        skipped = BLOCK_TOKENS * padded_dim * item_bytes
        values, ahead = head_of(work, block) + skipped, ahead_of(work, block) + skipped
        weights, sums = field(work, SCORES) + 4 * first, field(work, SUMS)
        here = min(n_here - first, BLOCK_TOKENS)
        by_all = min(max(seen_of(position, 0, n_heads, start + first), 0), here)
        for k in range(0, padded_dim, 16):
            for i in range(0, tile_size(tile), tile_size(part)):
                row, of_row = sums + i * stride + 4 * k, weights + i * SCORES_STRIDE
                acc = load_each(row, stride, part)
                for p in range(by_all):
                    at = (p * padded_dim + k) * item_bytes
                    if i == 0:  # line after line: hardware follows a stream
                        prefetch(ahead + (k * by_all + 16 * p) * item_bytes)
                    acc = fma_splat_each(acc, load(values + at), of_row + 4 * p, SCORES_STRIDE)
                store_each(row, stride, acc)
        for p in range(by_all, here):
            for i in range(n_tokens * n_heads):
                if seen_of(position, i, n_heads, start + first) > p:
                    weight = splat_f32x16(load_f32(weights + SCORES_STRIDE * i + 4 * p))
                    for k in range(0, padded_dim, 16):
                        row = sums + stride * i + 4 * k
                        store(row, fma(load(values + (p * padded_dim + k) * item_bytes), weight, load_f32x16(row)))


@inline
def _load_f16(address):
    return to_f32(load_f16x16(address))


@inline
def _load_f32(address):
    return load_f32x16(address)


@inline
def _store_f16(address, value):
    # Written so that a NaN fails both comparisons and stays.
    if value > LARGEST_F16:
        value = LARGEST_F16
    if value < -LARGEST_F16:
        value = -LARGEST_F16
    store_f16(address, value)


@inline
def _store_f32(address, value):
    store_f32(address, value)


@inline
def file_head_f16(keys, values, head, inside, head_dim, padded_dim):
    _file_head(keys, values, head, inside, head_dim, padded_dim, 2, _store_f16)


@inline
def file_head_f32(keys, values, head, inside, head_dim, padded_dim):
    _file_head(keys, values, head, inside, head_dim, padded_dim, 4, _store_f32)


@inline
def score_block_f16(work, head, ahead, scores, n_panels, head_dim, padded_dim, tile):
    _score_block(work, head, ahead, scores, n_panels, head_dim, padded_dim, 2, _load_f16, tile)


@inline
def score_block_f32(work, head, ahead, scores, n_panels, head_dim, padded_dim, tile):
    _score_block(work, head, ahead, scores, n_panels, head_dim, padded_dim, 4, _load_f32, tile)


@inline
def add_values_f16(work, position, n_tokens, n_heads, start, n_here, padded_dim, tile):
    _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, 2, _load_f16, tile)


@inline
def add_values_f32(work, position, n_tokens, n_heads, start, n_here, padded_dim, tile):
    _add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, 4, _load_f32, tile)
