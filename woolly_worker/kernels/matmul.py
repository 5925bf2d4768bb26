"""Matrix times activations: the loops that every tensor type shares. What the bytes mean is the formats' business.

    out[t, r] = sum over k of W[r, k] * x[t, k]          (or added to what `out` holds: the residual connection)

One token: each row's bytes are read once, in place, by the format's `row_dot`; this runs at memory bandwidth.
More tokens: sixteen rows are unpacked into a panel that stays in L1/L2 and multiplied by tiles of 8, 4, 2 and 1 tokens,
the first of them while the panel is made. Both ways do the same float operations in the same order for every (row,
token), so the bits are equal; the rows left over when n_rows is no multiple of sixteen go through `row_dot` for every
token.

Work is handed out in runs of rows by the operation's counter: long ones first, because every run starts with a cold
stream, short ones at the end, so that nobody waits long for the last.
"""

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import load_f32, load_i64, store_f32
from woolly_worker.kernels.simd.tiles import add_each, load_each, store_each, zeros_f32
from woolly_worker.kernels.step import TOKEN_IDS, entry, fetch_add, field

# Fields of a matmul's argument record.
WEIGHTS = 0  # address of row 0
ROW_BYTES = 1
N_ROWS = 2
N_COLS = 3
X = 4  # address of token 0's activations, in the form the weights ask for
X_STRIDE = 5  # bytes between tokens
OUT = 6  # address of token 0's row of the result, f32
OUT_STRIDE = 7  # bytes between tokens
LEAST_TAKE = 8  # rows that a member takes at least, a multiple of 16
PANEL = 9  # address of member 0's panel
PANEL_STRIDE = 10  # bytes between the members' panels
ADD_TO_OUT = 11  # 1: out += W x
COUNT_FIELD = 12  # which field of the step record counts the tokens
SHARE = 13  # a member takes one part in so many of the rows that are left
MATMUL_FIELDS = 14

PANEL_ROWS = 16


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
def _rows_one_by_one(args, first, last, n_tokens, row_dot):
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
def _store_tile(place, stride, add_to_out, tile):
    if add_to_out:
        store_each(place, stride, add_each(load_each(place, stride, tile), tile))
    else:
        store_each(place, stride, tile)


@inline
def _multiply(panel, n_blocks, x, x_stride, sizes, multiply_block, acc):
    """The panel of sixteen rows times as many tokens as `acc` has vectors."""
    for i in range(n_blocks):
        acc = multiply_block(panel + i * sizes[1], x + i * sizes[2], x_stride, acc)
    return acc


@inline
def _unpack_and_multiply(rows, row_bytes, n_blocks, panel, x, x_stride, sizes, unpack_block, multiply_block, acc):
    """The same, while the panel is made: every block is multiplied as long as it is in L1, and beside the unpacking of
    the next one."""
    ahead = rows + PANEL_ROWS * row_bytes
    for i in range(n_blocks):
        p = panel + i * sizes[1]
        unpack_block(rows + i * sizes[0], row_bytes, ahead + i * PANEL_ROWS * sizes[0], p)
        acc = multiply_block(p, x + i * sizes[2], x_stride, acc)
    return acc


@inline
def _rows_by_panels(args, first, last, n_tokens, panel, block, sizes, unpack_block, multiply_block):
    w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // block
    x, x_stride = field(args, X), field(args, X_STRIDE)
    out, out_stride = field(args, OUT), field(args, OUT_STRIDE)
    add_to_out = field(args, ADD_TO_OUT)
    for r in range(first, last, PANEL_ROWS):
        rows, place = w + r * row_bytes, out + 4 * r
        if n_tokens >= 8:
            tile = _unpack_and_multiply(
                rows, row_bytes, n_blocks, panel, x, x_stride, sizes, unpack_block, multiply_block, zeros_f32(8)
            )
            _store_tile(place, out_stride, add_to_out, tile)
            t = 8
        elif n_tokens >= 4:
            tile4 = _unpack_and_multiply(
                rows, row_bytes, n_blocks, panel, x, x_stride, sizes, unpack_block, multiply_block, zeros_f32(4)
            )
            _store_tile(place, out_stride, add_to_out, tile4)
            t = 4
        else:
            tile2 = _unpack_and_multiply(
                rows, row_bytes, n_blocks, panel, x, x_stride, sizes, unpack_block, multiply_block, zeros_f32(2)
            )
            _store_tile(place, out_stride, add_to_out, tile2)
            t = 2
        while t + 8 <= n_tokens:
            tile = _multiply(panel, n_blocks, x + t * x_stride, x_stride, sizes, multiply_block, zeros_f32(8))
            _store_tile(place + t * out_stride, out_stride, add_to_out, tile)
            t += 8
        if t + 4 <= n_tokens:
            tile4 = _multiply(panel, n_blocks, x + t * x_stride, x_stride, sizes, multiply_block, zeros_f32(4))
            _store_tile(place + t * out_stride, out_stride, add_to_out, tile4)
            t += 4
        if t + 2 <= n_tokens:
            tile2 = _multiply(panel, n_blocks, x + t * x_stride, x_stride, sizes, multiply_block, zeros_f32(2))
            _store_tile(place + t * out_stride, out_stride, add_to_out, tile2)
            t += 2
        if t < n_tokens:
            tile1 = _multiply(panel, n_blocks, x + t * x_stride, x_stride, sizes, multiply_block, zeros_f32(1))
            _store_tile(place + t * out_stride, out_stride, add_to_out, tile1)


@inline
def run_matmul(args, step, member, counter, block, sizes, unpack_block, multiply_block, row_dot):
    """The body of every quantised matmul operation.

    block    weights in a quant block
    sizes    bytes of a quant block: in a row of the matrix, of sixteen rows in a panel, in a row of activations
    unpack_block(rows, row_bytes, ahead, panel)       one block of sixteen rows into the format's panel; `ahead` is
                                                      where an equal share of the next sixteen rows lies, to prefetch
    multiply_block(panel, x, x_stride, acc) -> acc    one block of the panel times as many tokens as acc has vectors
    row_dot(row, x, n_cols) -> f32                    one row times one token
    """
    n_tokens = field(step, field(args, COUNT_FIELD))
    if n_tokens == 0:
        return  # a chunk in the middle of a prompt: nobody wants logits, so no row has to be unpacked
    n_rows = field(args, N_ROWS)
    panel = field(args, PANEL) + member * field(args, PANEL_STRIDE)
    whole = n_rows - n_rows % PANEL_ROWS
    while True:
        first, last = take_rows(args, counter)
        if first >= n_rows:
            return
        if n_tokens == 1:
            _rows_one_by_one(args, first, last, 1, row_dot)
        else:
            _rows_by_panels(args, first, min(last, whole), n_tokens, panel, block, sizes, unpack_block, multiply_block)
            _rows_one_by_one(args, max(first, whole), last, n_tokens, row_dot)


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
