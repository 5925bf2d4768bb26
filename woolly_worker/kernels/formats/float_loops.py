"""Float matrices times tokens: a register tile is several rows by several tokens.

A row times a token is sixteen lanes of partial sums over the columns, folded at the end. A load feeds one product only
where one row meets one token; in a tile each row's load is shared by all tokens and each token's by all rows, so that
the multipliers are what is busy.

    groups    six tokens go through the loops together, the last ones of a step by twos and one by one
    panels    sixteen rows for each group; their sums lie in scratch and are folded together
    strips    COLUMNS of every row at a time: the group's activations stay in L1 while all rows of the panel pass them
    chunks    tokens whose activations fit into L2 meet all rows that a member has taken before the next ones do

None of this changes what is added to what: a lane's products are added in the order of the columns, whatever meets it
in the tile. Where a strip ends, the lanes are put down and picked up again as they are.
"""

from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
    N_COLS,
    N_ROWS,
    OUT,
    OUT_STRIDE,
    PANEL_ROWS,
    ROW_BYTES,
    SCRATCH,
    SCRATCH_STRIDE,
    VECTOR_BYTES,
    WEIGHTS,
    X_STRIDE,
    X,
    rows_one_by_one,
    take_rows,
)
from woolly_worker.kernels.simd import add, load_f32x16, store
from woolly_worker.kernels.simd.products import (
    ROWS,
    TOKENS,
    fma_products,
    four_vectors,
    sums_of_sixteen,
    two_vectors,
    zero_products,
)
from woolly_worker.kernels.simd.tiles import load_each, store_each, tile_size
from woolly_worker.kernels.step import field

COLUMNS = 512  # six tokens' activations: 12 KB
CHUNK_BYTES = 384 << 10  # of activations
LEAST_CHUNK = 24  # tokens: fewer would read the weights from memory too often
SUMS_BYTES = PANEL_ROWS * TOKENS * VECTOR_BYTES

if ROWS == 4:

    @inline
    def _load_rows(row, row_bytes, load):
        return four_vectors(load(row), load(row + row_bytes), load(row + 2 * row_bytes), load(row + 3 * row_bytes))

    @inline
    def _load_first_of_rows(row, row_bytes, n, load_first):
        two, three = row + 2 * row_bytes, row + 3 * row_bytes
        return four_vectors(
            load_first(row, n), load_first(row + row_bytes, n), load_first(two, n), load_first(three, n)
        )

else:

    @inline
    def _load_rows(row, row_bytes, load):
        return two_vectors(load(row), load(row + row_bytes))

    @inline
    def _load_first_of_rows(row, row_bytes, n, load_first):
        return two_vectors(load_first(row, n), load_first(row + row_bytes, n))


@inline
def _multiply_strip(acc, row, row_bytes, x, x_stride, first, last, size, load, load_first):
    """acc[r, t] += columns first .. last of the tile's rows and tokens. Only the last strip may end in a part of 16."""
    whole = last - last % 16
    for k in range(first, whole, 16):
        acc = fma_products(acc, _load_rows(row + size * k, row_bytes, load), x + 4 * k, x_stride)
    if whole < last:  # the activations' rows are padded with zeros; the weights' are not
        rows = _load_first_of_rows(row + size * whole, row_bytes, last - whole, load_first)
        acc = fma_products(acc, rows, x + 4 * whole, x_stride)
    return acc


@subroutine
def _multiply_group(rows, row_bytes, x, x_stride, n_cols, sums, place, stride, adding, size, load, load_first, zeros):
    """place[t] = sixteen rows times as many tokens as `zeros` has, added to what is there when `adding` is not 0."""
    n_sums = tile_size(zeros)
    n_tokens = n_sums // ROWS
    for first in range(0, n_cols, COLUMNS):
        last = min(first + COLUMNS, n_cols)
        for r in range(0, PANEL_ROWS, ROWS):
            s, row = sums + r * n_tokens * VECTOR_BYTES, rows + r * row_bytes
            acc = zeros
            if first > 0:
                acc = load_each(s, VECTOR_BYTES, zeros)
            acc = _multiply_strip(acc, row, row_bytes, x, x_stride, first, last, size, load, load_first)
            store_each(s, VECTOR_BYTES, acc)
    for t in range(n_tokens):
        total = sums_of_sixteen(sums + t * VECTOR_BYTES, n_tokens * VECTOR_BYTES)
        if adding:
            total = add(load_f32x16(place + t * stride), total)
        store(place + t * stride, total)


@inline
def _multiply_panel(args, r, t, last, sums, size, load, load_first):
    """Rows r .. r + 16 times tokens t .. last."""
    row_bytes, n_cols = field(args, ROW_BYTES), field(args, N_COLS)
    x_stride, stride, adding = field(args, X_STRIDE), field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
    rows, x, place = field(args, WEIGHTS) + r * row_bytes, field(args, X), field(args, OUT) + 4 * r
    while t + TOKENS <= last:
        y, here, zeros = x + t * x_stride, place + t * stride, zero_products(TOKENS)
        _multiply_group(rows, row_bytes, y, x_stride, n_cols, sums, here, stride, adding, size, load, load_first, zeros)
        t += TOKENS
    while t + 2 <= last:
        y, here, zeros = x + t * x_stride, place + t * stride, zero_products(2)
        _multiply_group(rows, row_bytes, y, x_stride, n_cols, sums, here, stride, adding, size, load, load_first, zeros)
        t += 2
    if t < last:
        y, here, zeros = x + t * x_stride, place + t * stride, zero_products(1)
        _multiply_group(rows, row_bytes, y, x_stride, n_cols, sums, here, stride, adding, size, load, load_first, zeros)


@inline
def run_float_matmul(args, step, member, counter, size, load, load_first, row_dot):
    """The body of a float matmul operation.

    size                       bytes of a weight
    load(address)              sixteen weights as f32
    load_first(address, n)     the first n, and zeros
    row_dot(row, x, n_cols)    one row times one token
    """
    n_tokens = field(step, field(args, COUNT_FIELD))
    if n_tokens == 0:
        return
    n_rows = field(args, N_ROWS)
    sums = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
    whole = n_rows - n_rows % PANEL_ROWS
    chunk = max(LEAST_CHUNK, CHUNK_BYTES // field(args, X_STRIDE) // TOKENS * TOKENS)
    while True:
        first, last = take_rows(args, counter)
        if first >= n_rows:
            return
        if n_tokens == 1:
            rows_one_by_one(args, first, last, 1, row_dot)
            continue
        for t in range(0, n_tokens, chunk):
            for r in range(first, min(last, whole), PANEL_ROWS):
                _multiply_panel(args, r, t, min(t + chunk, n_tokens), sums, size, load, load_first)
        rows_one_by_one(args, max(first, whole), last, n_tokens, row_dot)
