"""What all types of keys and values share: the sizes of a KV block, and the scratch that attention works in.

A head's block holds the keys of 32 positions, then their values. Keys lie in panels of 16 positions, transposed, so
that one vector holds one dimension (or a few bytes) of 16 positions.

Attention goes through positions in rounds of four blocks. A type of keys and values brings five functions:

    file_head(keys, values, head, inside, head_dim, padded_dim)     one position of one head into its block
    prepare(q, records, padded_dim)                                 one query into the form that `score_block` reads
    score_block(work, head, ahead, scores, n_panels, ..., tile)     keys of one block times all queries of a tile
    add_values(work, position, n_tokens, start, n_here, ..., tile)  a round's weights times its values, added up
    finish(row, padded_dim)                                         a query's sums, once all is added up

`ahead` is the block that lies as many positions further on as there are in a round, or, at the end, one that the member
reads next: its lines are asked for in time.
"""

from woolly_worker.kernels.activations import Q8_BYTES, Q8_VALUES
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.step import field

BLOCK_TOKENS, PANEL_TOKENS = 32, 16  # as memory/kv_cache.py lays them out; a test compares
ROUND_BLOCKS = 4
ROUND_TOKENS = ROUND_BLOCKS * BLOCK_TOKENS
QUERIES = 8  # the largest tile

# The scratch of one member: the fields of a record that `lay_out` writes at its beginning, addresses all of them.
SCALED = 0  # f32[QUERIES, padded_dim]: the queries, scaled
RECORDS = 1  # Q8 records of the same rows, for quantised keys
SCORES = 2  # f32[QUERIES, ROUND_TOKENS]: scores, then weights
PACKED = 3  # PACKED_BYTES for each query, see quants.py
SUMS = 4  # QUERIES rows of the piece at hand: see row_bytes
MERGED = 5  # QUERIES rows of all pieces so far
HEADS = 6  # four addresses: the blocks of this round
AHEAD = HEADS + ROUND_BLOCKS  # four addresses: the blocks to prefetch
UPCOMING = AHEAD + ROUND_BLOCKS  # four addresses: the blocks that the member's next unit of work begins with
WORK_FIELDS = UPCOMING + ROUND_BLOCKS

SCORES_STRIDE = 4 * ROUND_TOKENS
PACKED_SCALE = 2 * ROUND_TOKENS  # i16[ROUND_TOKENS], one f32, then f32[ROUND_TOKENS] before they are rounded
PACKED_PLAIN = PACKED_SCALE + 64
PACKED_BYTES = PACKED_PLAIN + 4 * ROUND_TOKENS


@inline
def row_bytes(padded_dim):
    """A row of sums: f32[padded_dim], then the largest score and the total of the weights, on a line of their own."""
    return 4 * (padded_dim + 16)


@inline
def records_bytes(padded_dim):
    return (padded_dim + Q8_VALUES - 1) // Q8_VALUES * Q8_BYTES


@inline
def seen_of(position, i, n_heads, start):
    """How many positions from `start` on query i of a tile sees: its own and those before. Not positive: none."""
    return position + i // n_heads + 1 - start


@inline
def head_of(work, block):
    """Where the round's block lies."""
    return field(work, HEADS + block)


@inline
def ahead_of(work, block):
    return field(work, AHEAD + block)
