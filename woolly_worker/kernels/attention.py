"""Attention over KV blocks, with the softmax kept up as the blocks go by.

    out = sum over p of softmax(q . k[p] / sqrt(head_dim)) v[p],   p = 0 .. the query's own position

Queries that read the same keys are treated together, up to eight: the heads of one KV head's group, and, where a
group is smaller than eight, the tokens of one prefill chunk. A key or value is then loaded once for all of them.

Each query's own operations do not depend on its company: blocks go by in order of position, 32 at a time; a masked
position has probability exactly zero, and adding zero times a value changes no bit.

Source: Dao et al. 2022 (online softmax), Kwon et al. 2023 (paged keys and values).
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.exponential import exp
from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.rope import BLOCK_TOKENS, PANEL_TOKENS
from woolly_worker.kernels.simd import (
    add,
    first_lane,
    first_lanes_or,
    hmax,
    hsum,
    load_f16x16,
    load_f32,
    load_f32x16,
    maximum,
    mul,
    splat_f32x16,
    store,
    store_f32,
    store_first,
    sub,
    to_f32,
    zero_f32x16,
)
from woolly_worker.kernels.simd.tiles import (
    fma_splat_each,
    load_each,
    store_each,
    tile_size,
    zeros_f32,
    zeros_f32_like,
)
from woolly_worker.kernels.step import (
    BLOCK_TABLES,
    BLOCKS_PER_SLOT,
    N_TOKENS,
    POSITIONS,
    SLOTS,
    entry,
    fetch_add,
    field,
)

# Fields of the argument record.
Q = 0  # address of token 0's turned queries, f32[n_head, head_dim]
Q_STRIDE = 1
OUT = 2  # address of token 0's result, f32[n_head, head_dim]
OUT_STRIDE = 3
N_HEAD = 4
N_HEAD_KV = 5
HEAD_DIM = 6
PADDED_DIM = 7
KV_BASE = 8  # address of this layer's KV block 0
HEAD_BLOCK_BYTES = 9
SCALE = 10  # address of one f32, 1 / sqrt(head_dim)
SCRATCH = 11  # address of member 0's scratch
SCRATCH_STRIDE = 12
ATTENTION_FIELDS = 13

QUERIES = 8  # the largest tile
NOTHING = np.float32(-np.inf)


def scratch_bytes(padded_dim: int) -> int:
    """Per member: queries and sums of eight rows, their scores, and each one's largest score and total weight."""
    return 4 * (2 * QUERIES * padded_dim + QUERIES * BLOCK_TOKENS + 2 * QUERIES) + 64


Array = npt.NDArray[np.float64]


def attention_reference(q: Array, keys: Array, values: Array) -> Array:
    """One query (head_dim,) over keys and values (n, head_dim): the definition."""
    scores = keys @ q / np.sqrt(len(q))
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@inline
def _scores(q, row_bytes, scores, head, padded_dim, head_dim, item_bytes, n_panels, load, tile):
    for panel in range(n_panels):
        keys = head + panel * padded_dim * PANEL_TOKENS * item_bytes
        acc = zeros_f32_like(tile)
        for d in range(head_dim):
            acc = fma_splat_each(acc, load(keys + d * PANEL_TOKENS * item_bytes), q + 4 * d, row_bytes)
        store_each(scores + 4 * PANEL_TOKENS * panel, 4 * BLOCK_TOKENS, acc)


@inline
def _weigh(scores, sums, padded_dim, largest_at, total_at, n_visible):
    """One query's scores become weights; when a larger score comes up, what was summed so far shrinks."""
    low = first_lanes_or(load_f32x16(scores), n_visible, NOTHING)
    high = first_lanes_or(load_f32x16(scores + 64), n_visible - PANEL_TOKENS, NOTHING)
    here, largest = hmax(maximum(low, high)), load_f32(largest_at)
    if here > largest:
        shrink = exp(splat_f32x16(largest - here))
        for k in range(0, padded_dim, 16):
            store(sums + 4 * k, mul(load_f32x16(sums + 4 * k), shrink))
        store_f32(total_at, load_f32(total_at) * first_lane(shrink))
        store_f32(largest_at, here)
        largest = here
    low, high = exp(sub(low, splat_f32x16(largest))), exp(sub(high, splat_f32x16(largest)))
    store_f32(total_at, load_f32(total_at) + hsum(add(low, high)))
    store(scores, low)
    store(scores + 64, high)


@inline
def _add_values(scores, sums, row_bytes, values, padded_dim, item_bytes, n_positions, load, tile):
    for k in range(0, padded_dim, 16):
        acc = load_each(sums + 4 * k, row_bytes, tile)
        for p in range(n_positions):
            value = load(values + (p * padded_dim + k) * item_bytes)
            acc = fma_splat_each(acc, value, scores + 4 * p, 4 * BLOCK_TOKENS)
        store_each(sums + 4 * k, row_bytes, acc)


@inline
def _attend(args, step, scratch, t, n_tokens, h, g, n_heads, item_bytes, load, tile):
    """Tokens t .. t + n_tokens of one chunk, with heads g .. g + n_heads of KV head h's group: one tile of queries."""
    head_dim, padded_dim, n_head_kv = field(args, HEAD_DIM), field(args, PADDED_DIM), field(args, N_HEAD_KV)
    group, row_bytes, n_queries = field(args, N_HEAD) // n_head_kv, 4 * padded_dim, n_tokens * n_heads
    q = scratch
    sums = q + QUERIES * row_bytes
    scores = sums + QUERIES * row_bytes
    largest = scores + 4 * QUERIES * BLOCK_TOKENS
    total = largest + 4 * QUERIES
    scale = splat_f32x16(load_f32(field(args, SCALE)))
    for i in range(tile_size(tile)):
        first = 4 * ((h * group + g + i % n_heads) * head_dim)
        source = field(args, Q) + (t + i // n_heads) * field(args, Q_STRIDE) + first
        for k in range(0, padded_dim, 16):
            store(sums + i * row_bytes + 4 * k, zero_f32x16())
            if i < n_queries:
                # Lanes beyond head_dim belong to the next head; their scores are never summed (see _scores).
                store(q + i * row_bytes + 4 * k, mul(load_f32x16(source + 4 * k), scale))
            else:
                store(q + i * row_bytes + 4 * k, zero_f32x16())
        for p in range(0, BLOCK_TOKENS, 16):
            store(scores + 4 * (i * BLOCK_TOKENS + p), zero_f32x16())
        store_f32(largest + 4 * i, NOTHING)
        store_f32(total + 4 * i, np.float32(0))

    position = entry(field(step, POSITIONS), t)
    table = field(step, BLOCK_TABLES) + 4 * entry(field(step, SLOTS), t) * field(step, BLOCKS_PER_SLOT)
    n_visible = position + n_tokens  # of the last token
    for b in range((n_visible + BLOCK_TOKENS - 1) // BLOCK_TOKENS):
        start = b * BLOCK_TOKENS
        n_here = min(n_visible - start, BLOCK_TOKENS)
        head = field(args, KV_BASE) + (entry(table, b) * n_head_kv + h) * field(args, HEAD_BLOCK_BYTES)
        n_panels = (n_here + PANEL_TOKENS - 1) // PANEL_TOKENS
        _scores(q, row_bytes, scores, head, padded_dim, head_dim, item_bytes, n_panels, load, tile)
        for i in range(n_queries):
            seen, row = position + i // n_heads + 1 - start, scores + 4 * i * BLOCK_TOKENS
            if seen > 0:
                _weigh(row, sums + i * row_bytes, padded_dim, largest + 4 * i, total + 4 * i, seen)
            else:
                store(row, zero_f32x16())
                store(row + 64, zero_f32x16())
        values = head + BLOCK_TOKENS * padded_dim * item_bytes
        _add_values(scores, sums, row_bytes, values, padded_dim, item_bytes, n_here, load, tile)

    for i in range(n_queries):
        out = field(args, OUT) + (t + i // n_heads) * field(args, OUT_STRIDE)
        out += 4 * ((h * group + g + i % n_heads) * head_dim)
        inverse = splat_f32x16(np.float32(1) / load_f32(total + 4 * i))
        for k in range(0, head_dim, 16):
            store_first(out + 4 * k, mul(load_f32x16(sums + i * row_bytes + 4 * k), inverse), head_dim - k)


@inline
def _run_attention(args, step, member, counter, item_bytes, load):
    """A unit of work is one tile of neighbouring tokens, one KV head, and up to eight heads of its group."""
    n_tokens, n_head_kv = field(step, N_TOKENS), field(args, N_HEAD_KV)
    group = field(args, N_HEAD) // n_head_kv
    n_heads = min(group, QUERIES)
    head_tiles = (group + n_heads - 1) // n_heads
    tokens_per_tile = QUERIES // n_heads
    n_units = (n_tokens + tokens_per_tile - 1) // tokens_per_tile * n_head_kv * head_tiles
    scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
    slots, positions = field(step, SLOTS), field(step, POSITIONS)
    while True:
        unit = fetch_add(counter, 1)
        if unit >= n_units:
            return
        g = unit % head_tiles * n_heads
        h = unit // head_tiles % n_head_kv
        t = unit // head_tiles // n_head_kv * tokens_per_tile
        end = min(t + tokens_per_tile, n_tokens)
        heads_here = min(n_heads, group - g)
        while t < end:
            # Only tokens of one chunk share keys: same slot, positions one after the other.
            run = 1
            while (
                t + run < end
                and entry(slots, t + run) == entry(slots, t)
                and entry(positions, t + run) == entry(positions, t) + run
            ):
                run += 1
            n_queries = run * heads_here
            if n_queries > 4:
                _attend(args, step, scratch, t, run, h, g, heads_here, item_bytes, load, zeros_f32(8))
            elif n_queries > 2:
                _attend(args, step, scratch, t, run, h, g, heads_here, item_bytes, load, zeros_f32(4))
            elif n_queries == 2:
                _attend(args, step, scratch, t, run, h, g, heads_here, item_bytes, load, zeros_f32(2))
            else:
                _attend(args, step, scratch, t, run, h, g, heads_here, item_bytes, load, zeros_f32(1))
            t += run


@inline
def _load_f16(address):
    return to_f32(load_f16x16(address))


@inline
def _load_f32(address):
    return load_f32x16(address)


@op
def attention_f16(args, step, member, counter):
    _run_attention(args, step, member, counter, 2, _load_f16)


@op
def attention_f32(args, step, member, counter):
    _run_attention(args, step, member, counter, 4, _load_f32)
