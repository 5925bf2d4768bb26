"""One tile of queries over a run of positions: rounds, pieces, and what becomes of the pieces.

Everything that decides about a result's bits is here and in `softmax.py` and `kv`; `attention.py` hands out the work.
"""

from woolly_worker.kernels.activations import Q8_BYTES, Q8_VALUES
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.kv.blocks import (
    BLOCK_TOKENS,
    HEADS,
    MERGED,
    PACKED,
    PACKED_BYTES,
    PACKED_PLAIN,
    PANEL_TOKENS,
    QUERIES,
    RECORDS,
    ROUND_BLOCKS,
    ROUND_TOKENS,
    SCALED,
    SCORES,
    SCORES_STRIDE,
    SUMS,
    UPCOMING,
    WORK_FIELDS,
    ahead_of,
    head_of,
    records_bytes,
    row_bytes,
    seen_of,
)
from woolly_worker.kernels.simd import (
    fetch_add,
    load_f32,
    load_f32x16,
    load_first_f32x16,
    mul,
    splat_f32x16,
    store,
    store_i64,
    zero_f32x16,
    zeros_f32,
)
from woolly_worker.kernels.softmax import clear_row, merge_row, weigh, write_mean
from woolly_worker.kernels.step import BLOCK_TABLES, BLOCKS_PER_SLOT, POSITIONS, SLOTS, entry, field

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
PIECES = 13  # address of rows of sums, [SPLIT_TOKENS, n_head, MAX_PIECES]
MAX_PIECES = 14  # pieces of the longest context
FINISHED = 15  # address of i64[SPLIT_TOKENS, n_head], zero between steps: pieces that are done
N_MEMBERS = 16  # of the team
ATTENTION_FIELDS = 17

PIECE_TOKENS = 4 * ROUND_TOKENS
SPLIT_TOKENS = 8  # steps of so many tokens or fewer are split


def scratch_bytes(padded_dim: int) -> int:
    """Bytes of one member's scratch, with room for its parts to begin at a multiple of 64."""
    records = -(-padded_dim // Q8_VALUES) * Q8_BYTES
    rows = 4 * padded_dim + 2 * 4 * (padded_dim + 16)
    return QUERIES * (rows + records + SCORES_STRIDE + PACKED_BYTES) + 8 * WORK_FIELDS + 64


def pieces_bytes(n_head: int, padded_dim: int, max_pieces: int) -> int:
    """Bytes at PIECES."""
    return SPLIT_TOKENS * n_head * max_pieces * 4 * (padded_dim + 16)


@inline
def lay_out(args, member):
    """A member's scratch: a record of where its parts lie, then the parts."""
    padded_dim = field(args, PADDED_DIM)
    work = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
    at = (work + 8 * WORK_FIELDS + 63) // 64 * 64
    store_i64(work + 8 * SCALED, at)
    at += QUERIES * 4 * padded_dim
    store_i64(work + 8 * SCORES, at)
    at += QUERIES * SCORES_STRIDE
    store_i64(work + 8 * PACKED, at)
    at += QUERIES * PACKED_BYTES
    store_i64(work + 8 * SUMS, at)
    at += QUERIES * row_bytes(padded_dim)
    store_i64(work + 8 * MERGED, at)
    store_i64(work + 8 * RECORDS, at + QUERIES * row_bytes(padded_dim))
    return work


@inline
def _take_queries(args, work, t, first_head, n_queries, n_heads, prepare):
    """The queries of a tile, scaled; lanes behind head_dim are zero, and so is all that belongs to a row too many."""
    head_dim, padded_dim = field(args, HEAD_DIM), field(args, PADDED_DIM)
    scale = splat_f32x16(load_f32(field(args, SCALE)))
    for i in range(_tile_size(n_queries)):
        row = field(work, SCALED) + 4 * padded_dim * i
        source = field(args, Q) + (t + i // n_heads) * field(args, Q_STRIDE) + 4 * head_dim * (first_head + i % n_heads)
        for k in range(0, padded_dim, 16):
            n_lanes = head_dim - k if i < n_queries else 0
            store(row + 4 * k, mul(load_first_f32x16(source + 4 * k, n_lanes), scale))
        prepare(row, field(work, RECORDS) + records_bytes(padded_dim) * i, padded_dim)
        if i < n_queries:
            clear_row(field(work, MERGED) + row_bytes(padded_dim) * i, padded_dim)
        else:
            clear_row(field(work, SUMS) + row_bytes(padded_dim) * i, padded_dim)
            for at in range(0, SCORES_STRIDE, 64):
                store(field(work, SCORES) + SCORES_STRIDE * i + at, zero_f32x16())
            for at in range(0, PACKED_PLAIN, 64):
                store(field(work, PACKED) + PACKED_BYTES * i + at, zero_f32x16())


@inline
def _tile_size(n_queries):
    """Tiles have 8, 4, 2 or 1 rows."""
    return 8 if n_queries > 4 else 4 if n_queries > 2 else n_queries


@inline
def _head_at(args, table, h, index):
    """The address of KV head h in a sequence's block."""
    return field(args, KV_BASE) + (entry(table, index) * field(args, N_HEAD_KV) + h) * field(args, HEAD_BLOCK_BYTES)


@inline
def _find_blocks(args, work, table, h, start, n_visible):
    """The addresses of a round's blocks, and of those a round further on; behind the last one, those that are read
    next."""
    n_blocks = (n_visible + BLOCK_TOKENS - 1) // BLOCK_TOKENS
    for i in range(2 * ROUND_BLOCKS):
        index = start // BLOCK_TOKENS + i
        if index < n_blocks:
            store_i64(work + 8 * (HEADS + i), _head_at(args, table, h, index))
        elif i >= ROUND_BLOCKS:
            store_i64(work + 8 * (HEADS + i), field(work, UPCOMING + i - ROUND_BLOCKS))


@inline
def _table_of(step, t):
    return field(step, BLOCK_TABLES) + 4 * entry(field(step, SLOTS), t) * field(step, BLOCKS_PER_SLOT)


@inline
def announce(args, step, work, t, h, piece):
    """Where the member's next unit of work probably begins to read: a piece of what token t sees of KV head h."""
    last_block = entry(field(step, POSITIONS), t) // BLOCK_TOKENS
    for i in range(ROUND_BLOCKS):
        index = min(piece * PIECE_TOKENS // BLOCK_TOKENS + i, last_block)
        store_i64(work + 8 * (UPCOMING + i), _head_at(args, _table_of(step, t), h, index))


@inline
def _attend_round(args, work, position, n_tokens, n_heads, start, n_here, score_block, add_values, tile):
    head_dim, padded_dim = field(args, HEAD_DIM), field(args, PADDED_DIM)
    for first in range(0, n_here, BLOCK_TOKENS):
        block, scores = first // BLOCK_TOKENS, field(work, SCORES) + 4 * first
        n_panels = (min(n_here - first, BLOCK_TOKENS) + PANEL_TOKENS - 1) // PANEL_TOKENS
        head, ahead = head_of(work, block), ahead_of(work, block)
        score_block(work, head, ahead, scores, n_panels, head_dim, padded_dim, tile)
    for i in range(n_tokens * n_heads):
        seen = seen_of(position, i, n_heads, start)
        if seen > 0:
            sums = field(work, SUMS) + row_bytes(padded_dim) * i
            weigh(field(work, SCORES) + SCORES_STRIDE * i, seen, sums, padded_dim)
    add_values(work, position, n_tokens, n_heads, start, n_here, padded_dim, tile)


@inline
def _attend_piece(args, work, table, h, position, n_tokens, n_heads, piece, score_block, add_values):
    """The rows of sums of all queries of a tile, over one piece of the positions."""
    n_visible, n_queries, padded_dim = position + n_tokens, n_tokens * n_heads, field(args, PADDED_DIM)
    for i in range(n_queries):
        clear_row(field(work, SUMS) + row_bytes(padded_dim) * i, padded_dim)
    for start in range(piece * PIECE_TOKENS, min((piece + 1) * PIECE_TOKENS, n_visible), ROUND_TOKENS):
        n_here = min(n_visible - start, ROUND_TOKENS)
        _find_blocks(args, work, table, h, start, n_visible)
        if n_queries > 4:
            _attend_round(args, work, position, n_tokens, n_heads, start, n_here, score_block, add_values, zeros_f32(8))
        elif n_queries > 2:
            _attend_round(args, work, position, n_tokens, n_heads, start, n_here, score_block, add_values, zeros_f32(4))
        elif n_queries == 2:
            _attend_round(args, work, position, n_tokens, n_heads, start, n_here, score_block, add_values, zeros_f32(2))
        else:
            _attend_round(args, work, position, n_tokens, n_heads, start, n_here, score_block, add_values, zeros_f32(1))


@inline
def _merge(work, rows, stride, position, n_queries, n_heads, piece, padded_dim):
    """Add a piece's rows to what was merged so far, for the queries that see anything of it."""
    for i in range(n_queries):
        if seen_of(position, i, n_heads, piece * PIECE_TOKENS) > 0:
            merge_row(rows + stride * i, field(work, MERGED) + row_bytes(padded_dim) * i, padded_dim)


@inline
def attend(
    args, step, work, t, n_tokens, h, g, n_heads, first_piece, n_mine, split, prepare, score_block, add_values, finish
):
    """Tokens t .. t + n_tokens of one chunk, heads g .. g + n_heads of KV head h's group: one tile of queries.

    Of its pieces, n_mine from first_piece on; `split`: the others are somebody else's work.
    """
    padded_dim, group = field(args, PADDED_DIM), field(args, N_HEAD) // field(args, N_HEAD_KV)
    first_head, n_queries, stride = h * group + g, n_tokens * n_heads, row_bytes(padded_dim)
    position = entry(field(step, POSITIONS), t)
    table = _table_of(step, t)
    _take_queries(args, work, t, first_head, n_queries, n_heads, prepare)
    for piece in range(first_piece, first_piece + n_mine):
        _attend_piece(args, work, table, h, position, n_tokens, n_heads, piece, score_block, add_values)
        if split:
            for i in range(n_queries):
                _copy_row(field(work, SUMS) + stride * i, _piece_row(args, t, first_head, i, n_heads, piece), stride)
        else:
            _merge(work, field(work, SUMS), stride, position, n_queries, n_heads, piece, padded_dim)
    if split:
        finished = field(args, FINISHED) + 8 * (t * field(args, N_HEAD) + first_head)
        n_all = n_pieces(position + n_tokens)
        if fetch_add(finished, 1) != n_all - 1:
            return
        store_i64(finished, 0)  # for the next step
        for piece in range(n_all):
            for i in range(n_queries):
                _copy_row(_piece_row(args, t, first_head, i, n_heads, piece), field(work, SUMS) + stride * i, stride)
            _merge(work, field(work, SUMS), stride, position, n_queries, n_heads, piece, padded_dim)
    for i in range(n_queries):
        out = field(args, OUT) + (t + i // n_heads) * field(args, OUT_STRIDE)
        out += 4 * (first_head + i % n_heads) * field(args, HEAD_DIM)
        finish(field(work, MERGED) + stride * i, padded_dim)
        write_mean(field(work, MERGED) + stride * i, padded_dim, out, field(args, HEAD_DIM))


@inline
def n_pieces(n_positions):
    return (n_positions + PIECE_TOKENS - 1) // PIECE_TOKENS


@inline
def _piece_row(args, t, first_head, i, n_heads, piece):
    row = (t + i // n_heads) * field(args, N_HEAD) + first_head + i % n_heads
    return field(args, PIECES) + (row * field(args, MAX_PIECES) + piece) * row_bytes(field(args, PADDED_DIM))


@inline
def _copy_row(source, to, n_bytes):
    for at in range(0, n_bytes, 64):
        store(to + at, load_f32x16(source + at))
