"""Matrix times activations: the loops that every tensor type shares. What the bytes mean is the formats' business.

    out[t, r] = sum over k of W[r, k] * x[t, k]          (or added to what `out` holds: the residual connection)

One token: each row's bytes are read once, in place, by the format's `row_dot`, or for sixteen rows together where that
saves work (`formats/fours.py`, `formats/one_token.py`); this runs at memory bandwidth.
More tokens: sixteen rows are unpacked into a panel, and tiles of TILE_TOKENS and fewer are multiplied by it.

    few tokens    one block at a time: its panel never leaves L1, and all tokens use it before the next one is made. The
                  weights are read from memory exactly as fast as they are used. A format may prepare only what a
                  block's scales need and unpack the weights while it multiplies: stores are what unpacking costs most.
    many tokens   all blocks of sixteen rows first: the panel stays in L2 while tile after tile passes over it.

The blocks of a row are dealt in turn to `parts` partial sums, which are added up in order at the end; that is what lets
`row_dot` treat several blocks as the lanes of one vector. All three ways do the same float operations in the same order
for every (row, token), so the bits are equal. Rows left over when n_rows is no multiple of sixteen go through
`row_dot` for every token.

Work is handed out in runs of rows by the operation's counter: long ones first, because every run starts with a cold
stream, short ones at the end, so that nobody waits long for the last.
"""

from typing import Any

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.simd import (
    add,
    add_each,
    fetch_add,
    load_each,
    load_f32,
    load_f32x16,
    load_i64,
    prefetch,
    store,
    store_each,
    store_f32,
    zero_f32x16,
    zeros_f32,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS, TILE_TOKENS
from woolly_worker.kernels.step import TOKEN_IDS, entry, field

# Fields of a matmul's argument record.
WEIGHTS = 0  # address of row 0
ROW_BYTES = 1
N_ROWS = 2
N_COLS = 3
X = 4  # address of token 0's activations, in the form the weights ask for
X_STRIDE = 5  # bytes between tokens, at least `activations.row_bytes`
OUT = 6  # address of token 0's row of the result, f32
OUT_STRIDE = 7  # bytes between tokens
LEAST_TAKE = 8  # rows that a member takes at least, a multiple of 16
SCRATCH = 9  # address of member 0's scratch: partial sums, then the panel; or what one token needs
SCRATCH_STRIDE = 10  # bytes between the members' scratch
ADD_TO_OUT = 11  # 1: out += W x
COUNT_FIELD = 12  # which field of the step record counts the tokens
SHARE = 13  # a member takes one part in so many of the rows that are left
MATMUL_FIELDS = 14

PANEL_ROWS = 16
VECTOR_BYTES = 64  # sixteen rows' sums for one token
# Where the next sixteen rows of a format with large blocks are asked for: a share of their lines with every tile of
# tokens, or all while a block is unpacked. Zen 3 takes a quarter longer for 8 tokens of Q6_K where 53 lines are asked
# for at once.
ASKS_BETWEEN_TILES = CPU.level == "avx2"
# Where few tokens pass: a core has few buffers for lines that are under way, and to ask for all lines keeps them busy.
# The L2 has more for what hardware fetches by itself, once it sees a stream. So every third line is asked for some time
# before the others, which are then on their way or there (note 0009).
ASKS_EARLY = CPU.asks_ahead and not ASKS_BETWEEN_TILES
EARLY_ROWS = 12  # how much further ahead they lie, in rows
EARLY_STEP = 3 * 64  # bytes between them
FEW_TOKENS = 32  # up to here one block at a time; beyond, the sums of all tokens would crowd the panel out of L1


def sums_bytes(parts: int) -> int:
    """Scratch for the partial sums of as many tokens as are treated together."""
    return parts * FEW_TOKENS * VECTOR_BYTES


@inline
def take_rows(args, counter):
    """The next run of rows as (first, last), whole panels of them. Nothing is left when first >= n_rows.

    Somebody may take rows between the two looks at the counter: the run is then a little longer than its share.
    """
    n_rows = field(args, N_ROWS)
    share = (n_rows - load_i64(counter)) // field(args, SHARE)
    n = max(field(args, LEAST_TAKE), share // PANEL_ROWS * PANEL_ROWS)
    first = fetch_add(counter, n)
    return first, min(first + n, n_rows)


@inline
def ask_early(place, first, last):
    """For those of the lines first .. last, in bytes behind `place`, that are asked for early: see ASKS_EARLY."""
    for at in range((first + EARLY_STEP - 1) // EARLY_STEP * EARLY_STEP, last, EARLY_STEP):
        prefetch(place + at)


@inline
def rows_one_by_one(args, first, last, n_tokens, row_dot):
    w, row_bytes, n_cols = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS)
    x, x_stride = field(args, X), field(args, X_STRIDE)
    out, out_stride = field(args, OUT), field(args, OUT_STRIDE)
    add_to_out = field(args, ADD_TO_OUT)
    for r in range(first, last):
        for t in range(n_tokens):
            value = row_dot(w + r * row_bytes, x + t * x_stride, n_cols)
            place = out + t * out_stride + 4 * r
            if add_to_out:
                value = load_f32(place) + value
            store_f32(place, value)


@inline
def _multiply(sums, panel, panel_bytes, x, x_stride, first, step, n_blocks, multiply_block, tile):
    acc = load_each(sums, VECTOR_BYTES, tile)
    for i in range(first, n_blocks, step):
        acc = multiply_block(panel + i * panel_bytes, x, i, x_stride, acc)
    store_each(sums, VECTOR_BYTES, acc)


@subroutine
def multiply_tiles(n_tokens, sums, panel, panel_bytes, x, x_stride, first, step, n_blocks, multiply_block):
    """sums[t] += panel . x[t] over the blocks first, first + step, ... below n_blocks, for t < n_tokens.

    sums         (n_tokens, 16) f32: sixteen rows' sums of one part
    panel_bytes  between the panels of neighbouring blocks; 0 where one panel holds the present block
    """
    t = 0
    while t + TILE_TOKENS <= n_tokens:
        s, y = sums + t * VECTOR_BYTES, x + t * x_stride
        _multiply(s, panel, panel_bytes, y, x_stride, first, step, n_blocks, multiply_block, zeros_f32(TILE_TOKENS))
        t += TILE_TOKENS
    if TILE_TOKENS > 4 and t + 4 <= n_tokens:
        s, y = sums + t * VECTOR_BYTES, x + t * x_stride
        _multiply(s, panel, panel_bytes, y, x_stride, first, step, n_blocks, multiply_block, zeros_f32(4))
        t += 4
    if t + 2 <= n_tokens:
        s, y = sums + t * VECTOR_BYTES, x + t * x_stride
        _multiply(s, panel, panel_bytes, y, x_stride, first, step, n_blocks, multiply_block, zeros_f32(2))
        t += 2
    if t < n_tokens:
        s, y = sums + t * VECTOR_BYTES, x + t * x_stride
        _multiply(s, panel, panel_bytes, y, x_stride, first, step, n_blocks, multiply_block, zeros_f32(1))


@inline
def clear(sums, n):
    for k in range(n):
        store(sums + k * VECTOR_BYTES, zero_f32x16())


@inline
def add_up(sums, part_bytes, parts, n_tokens, place, stride, add_to_out):
    """place[t] = the parts' sums of token t, in order; added to what is there when add_to_out is not 0."""
    for t in range(n_tokens):
        total = load_f32x16(sums + t * VECTOR_BYTES)
        for part in range(1, parts):
            total = add(total, load_f32x16(sums + part * part_bytes + t * VECTOR_BYTES))
        if add_to_out:
            total = add(load_f32x16(place + t * stride), total)
        store(place + t * stride, total)


@inline
def _rows_few_tokens(args, first, last, n_tokens, sums, panel, block, sizes, parts, prepare_block, multiply_prepared):
    w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // block
    x, x_stride = field(args, X), field(args, X_STRIDE)
    out, out_stride = field(args, OUT), field(args, OUT_STRIDE)
    part_bytes = n_tokens * VECTOR_BYTES
    lines, n_tiles = PANEL_ROWS * sizes[0] // VECTOR_BYTES + 1, (n_tokens + TILE_TOKENS - 1) // TILE_TOKENS
    lines_of_tile = (lines + n_tiles - 1) // n_tiles
    share_bytes = PANEL_ROWS * sizes[0]
    for r in range(first, last, PANEL_ROWS):
        rows = w + r * row_bytes
        ahead = rows + PANEL_ROWS * row_bytes
        clear(sums, parts * n_tokens)
        for i in range(n_blocks):
            here, share, s = rows + i * sizes[0], ahead + i * share_bytes, sums + i % parts * part_bytes
            if ASKS_BETWEEN_TILES and parts == 1:
                prepare_block(here, row_bytes, here, panel)  # what it asks for is near; the rest follows
                for t in range(0, n_tokens, TILE_TOKENS):
                    for line in range(lines_of_tile):
                        prefetch(share + VECTOR_BYTES * line)
                    share += VECTOR_BYTES * lines_of_tile
                    n, sums_of_tile, y = min(TILE_TOKENS, n_tokens - t), s + t * VECTOR_BYTES, x + t * x_stride
                    multiply_tiles(n, sums_of_tile, panel, 0, y, x_stride, i, 1, i + 1, multiply_prepared)
            else:
                if ASKS_EARLY:
                    ask_early(ahead + EARLY_ROWS * row_bytes, i * share_bytes, (i + 1) * share_bytes)
                prepare_block(here, row_bytes, share, panel)
                multiply_tiles(n_tokens, s, panel, 0, x, x_stride, i, 1, i + 1, multiply_prepared)
        add_up(sums, part_bytes, parts, n_tokens, out + 4 * r, out_stride, field(args, ADD_TO_OUT))


@inline
def put_down_part(part, parts, acc, sums, place, stride, add_to_out):
    """Add a part's sums to those before it, which wait in `sums`; the last one goes to `place`."""
    if part > 0:
        acc = add_each(load_each(sums, VECTOR_BYTES, acc), acc)
    if part < parts - 1:
        store_each(sums, VECTOR_BYTES, acc)
    elif add_to_out:
        store_each(place, stride, add_each(load_each(place, stride, acc), acc))
    else:
        store_each(place, stride, acc)


def tile_of_tokens(parts: int, multiply_block: Any) -> Any:
    """The `whole_tile` of `run_matmul` for TILE_TOKENS, in vectors."""

    @inline
    def whole_tile(panel, panel_bytes, x, x_stride, sums, n_blocks, place, stride, add_to_out):
        for part in range(parts):
            acc = zeros_f32(TILE_TOKENS)
            for i in range(part, n_blocks, parts):
                acc = multiply_block(panel + i * panel_bytes, x, i, x_stride, acc)
            put_down_part(part, parts, acc, sums, place, stride, add_to_out)

    @inline
    def tile_in_order(panel, panel_bytes, x, x_stride, sums, n_blocks, place, stride, add_to_out):
        """The same block after block, with the parts' sums in memory: few registers are left for them anyway, and a
        panel is read in its order, not in a sweep over it for every part."""
        clear(sums, parts * TILE_TOKENS)
        for i in range(n_blocks):
            s = sums + i % parts * TILE_TOKENS * VECTOR_BYTES
            acc = multiply_block(
                panel + i * panel_bytes, x, i, x_stride, load_each(s, VECTOR_BYTES, zeros_f32(TILE_TOKENS))
            )
            store_each(s, VECTOR_BYTES, acc)
        add_up(sums, TILE_TOKENS * VECTOR_BYTES, parts, TILE_TOKENS, place, stride, add_to_out)

    return tile_in_order if parts > 1 and IN_SHORTS else whole_tile


@inline
def _rows_many_tokens(
    args, first, last, n_tokens, sums, panel, block, sizes, parts, unpack_block, multiply_block, whole_tile
):
    """Panels of whole rows times all tokens: TILE_TOKENS at a time by whole_tile, the last ones by multiply_block."""
    w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // block
    x, x_stride = field(args, X), field(args, X_STRIDE)
    out, out_stride, add_to_out = field(args, OUT), field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
    whole, part_bytes = n_tokens - n_tokens % TILE_TOKENS, TILE_TOKENS * VECTOR_BYTES
    for r in range(first, last, PANEL_ROWS):
        rows, place = w + r * row_bytes, out + 4 * r
        ahead = rows + PANEL_ROWS * row_bytes
        for i in range(n_blocks):
            unpack_block(rows + i * sizes[0], row_bytes, ahead + i * PANEL_ROWS * sizes[0], panel + i * sizes[1])
        for t in range(0, whole, TILE_TOKENS):
            y, here = x + t * x_stride, place + t * out_stride
            whole_tile(panel, sizes[1], y, x_stride, sums, n_blocks, here, out_stride, add_to_out)
        if whole < n_tokens:
            n, y = n_tokens - whole, x + whole * x_stride
            clear(sums, parts * TILE_TOKENS)
            for part in range(parts):
                s = sums + part * part_bytes
                multiply_tiles(n, s, panel, sizes[1], y, x_stride, part, parts, n_blocks, multiply_block)
            add_up(sums, part_bytes, parts, n, place + whole * out_stride, out_stride, add_to_out)


@inline
def run_matmul(
    args,
    step,
    member,
    counter,
    block,
    sizes,
    parts,
    unpack_block,
    multiply_block,
    row_dot,
    rows_of_one_token,
    prepare_block,
    multiply_prepared,
    whole_tile,
):
    """The body of every quantised matmul operation.

    block    weights in a quant block
    sizes    bytes of a quant block: in a row of the matrix, and of sixteen rows in a panel
    parts    partial sums that the blocks of a row are dealt to
    unpack_block(rows, row_bytes, ahead, panel)          one block of sixteen rows into the format's panel; `ahead` is
                                                         where an equal share of the next sixteen rows lies, to prefetch
    multiply_block(panel, x, i, x_stride, acc) -> acc    the panel of block i times as many tokens as acc has vectors
    row_dot(row, x, n_cols) -> f32                       one row times one token
    rows_of_one_token(args, first, last, scratch)        the rows from first to last, if there is one token; scratch is
                                                         the member's own
    prepare_block, multiply_prepared                     what stands in for unpack_block and multiply_block where tokens
                                                         are few: the panel may then hold whatever the two agree on
    whole_tile(panel, panel_bytes, x, x_stride, sums, n_blocks, place, stride, add_to_out)
                                                         a panel of whole rows times TILE_TOKENS, where tokens are many:
                                                         to `place`, a token's row every `stride` bytes; `sums` is
                                                         scratch
    """
    n_tokens = field(step, field(args, COUNT_FIELD))
    if n_tokens == 0:
        return  # a chunk in the middle of a prompt: nobody wants logits, so no row has to be unpacked
    n_rows = field(args, N_ROWS)
    sums = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
    panel = sums + parts * FEW_TOKENS * VECTOR_BYTES
    whole = n_rows - n_rows % PANEL_ROWS
    while True:
        first, last = take_rows(args, counter)
        if first >= n_rows:
            return
        if n_tokens == 1:
            rows_of_one_token(args, first, last, sums)
            continue
        stop = min(last, whole)
        if n_tokens <= FEW_TOKENS:
            _rows_few_tokens(
                args, first, stop, n_tokens, sums, panel, block, sizes, parts, prepare_block, multiply_prepared
            )
        else:
            _rows_many_tokens(
                args,
                first,
                stop,
                n_tokens,
                sums,
                panel,
                block,
                sizes,
                parts,
                unpack_block,
                multiply_block,
                whole_tile,
            )
        rows_one_by_one(args, max(first, whole), last, n_tokens, row_dot)


@inline
def run_one_token(args, member, counter, rows_of_one_token):
    """`run_matmul` where there is one token for certain."""
    scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
    while True:
        first, last = take_rows(args, counter)
        if first >= field(args, N_ROWS):
            return
        rows_of_one_token(args, first, last, scratch)


# Fields of an embedding's argument record; the first three are a matmul's.
EMBED_OUT = 3
EMBED_OUT_STRIDE = 4
EMBED_N_COLS = 5
EMBED_FIELDS = 6


@inline
def run_embedding(args, step, counter, dequantize):
    """out[t] = row token_ids[t] of the matrix, as f32. A unit of work is one token."""
    n_tokens, token_ids = field(step, 0), field(step, TOKEN_IDS)
    w, row_bytes = field(args, WEIGHTS), field(args, ROW_BYTES)
    out, out_stride, n_cols = field(args, EMBED_OUT), field(args, EMBED_OUT_STRIDE), field(args, EMBED_N_COLS)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        dequantize(w + entry(token_ids, t) * row_bytes, n_cols, out + t * out_stride)
