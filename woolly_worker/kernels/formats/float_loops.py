"""Float matrices times tokens: a register tile is several rows by several tokens.

A row times a token is sixteen lanes of partial sums over the columns, folded at the end. A load feeds one product only
where one row meets one token; in a tile each row's load is shared by all tokens and each token's by all rows, so that
the multipliers are what is busy.

    groups    six tokens (three, where registers hold eight floats) meet a row's load together, the last ones of a
              step by twos and one by one
    panels    sixteen rows, whose sums are folded together
    strips    COLUMNS of every row at a time; the sums of a tile lie in scratch meanwhile

    few tokens    a tile's rows all along, strip by strip, all groups for each: memory is read in few streams, as
                  fast as it comes, and the activations stay in L2
                  (another way where lines are asked for one by one, see `float_few.py`)
    many tokens   a group's activations stay in L1 while all rows of the panel pass them. Chunks of tokens whose
                  activations fit into L2 meet all rows that a member has taken before the next ones do

None of this changes what is added to what: a lane's products are added in the order of the columns, whatever meets it
in the tile. Where a strip ends, the lanes are put down and picked up again as they are.
"""

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.float_few import MOST_TOKENS, few_group_size, panel_times_few
from woolly_worker.kernels.formats.float_tile import multiply_strip
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
    FEW_TOKENS,
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
from woolly_worker.kernels.simd import (
    add,
    load_f32x16,
    store,
    sums_of_sixteen,
    tile_size,
    zero_products,
)
from woolly_worker.kernels.simd.sizes import PRODUCT_ROWS, PRODUCT_TOKENS
from woolly_worker.kernels.step import field

COLUMNS = 3072 // PRODUCT_TOKENS  # a group's activations: 12 KB
CHUNK_BYTES = 384 << 10  # of activations
LEAST_CHUNK = 24  # tokens: fewer would read the weights from memory too often
# Up to here it is the way of few tokens. With AVX2 alone, whatever float_few.py does not take goes that of many: so few
# registers leave no time to wait for memory.
FEW = 0 if CPU.level == "avx2" else FEW_TOKENS
ASKS_AHEAD = CPU.asks_ahead  # then a few tokens pass by float_few.py
SUMS_BYTES = PANEL_ROWS * FEW_TOKENS * VECTOR_BYTES


@inline
def _tiles(args, row, n_rows, x, first, last, sums, size, load, load_first, zeros):
    """See `multiply_strip`; the sums of a tile lie behind those of the one before."""
    row_bytes, x_stride = field(args, ROW_BYTES), field(args, X_STRIDE)
    stop = row + n_rows * row_bytes
    while row < stop:  # how often is nothing that LLVM sees: it would write the loop out, and compile twice as long
        multiply_strip(row, row_bytes, x, x_stride, first, last, sums, size, load, load_first, zeros)
        row += PRODUCT_ROWS * row_bytes
        sums += tile_size(zeros) * VECTOR_BYTES


@inline
def _group_size(n_left):
    # Four are two and two where three go together.
    return PRODUCT_TOKENS if n_left >= PRODUCT_TOKENS and n_left != 4 else 2 if n_left >= 2 else 1


@subroutine
def _multiply(args, n_tokens, row, n_rows, x, first, last, sums, size, load, load_first):
    """One strip of n_rows rows times a group of tokens."""
    if n_tokens == PRODUCT_TOKENS:
        _tiles(args, row, n_rows, x, first, last, sums, size, load, load_first, zero_products(PRODUCT_TOKENS))
    elif n_tokens == 2:
        _tiles(args, row, n_rows, x, first, last, sums, size, load, load_first, zero_products(2))
    else:
        _tiles(args, row, n_rows, x, first, last, sums, size, load, load_first, zero_products(1))


@subroutine
def _fold(args, r, t, n_tokens, sums):
    """out[t, r] .. out[t + n_tokens, r + 16] of a group of tokens, from sums[16, n_tokens, 16]."""
    stride = field(args, OUT_STRIDE)
    place = field(args, OUT) + t * stride + 4 * r
    for i in range(n_tokens):
        total = sums_of_sixteen(sums + i * VECTOR_BYTES, n_tokens * VECTOR_BYTES)
        if field(args, ADD_TO_OUT):
            total = add(load_f32x16(place + i * stride), total)
        store(place + i * stride, total)


@inline
def _fold_groups(args, r, n_tokens, sums, group_size):
    """All groups of a few tokens, whose sums lie one behind the other."""
    t = 0
    while t < n_tokens:
        n = group_size(n_tokens - t)
        _fold(args, r, t, n, sums + PANEL_ROWS * t * VECTOR_BYTES)
        t += n


@inline
def _few_tokens(args, r, n_tokens, sums, size, load, load_first):
    """Rows r .. r + 16 times all tokens. Each group has its own sums, one behind the other."""
    row_bytes, n_cols, x, x_stride = field(args, ROW_BYTES), field(args, N_COLS), field(args, X), field(args, X_STRIDE)
    for q in range(0, PANEL_ROWS, PRODUCT_ROWS):
        row = field(args, WEIGHTS) + (r + q) * row_bytes
        for first in range(0, n_cols, COLUMNS):
            last = min(first + COLUMNS, n_cols)
            t = 0
            while t < n_tokens:
                n = _group_size(n_tokens - t)
                s = sums + (PANEL_ROWS * t + q * n) * VECTOR_BYTES
                _multiply(args, n, row, PRODUCT_ROWS, x + t * x_stride, first, last, s, size, load, load_first)
                t += n
    _fold_groups(args, r, n_tokens, sums, _group_size)


@inline
def _many_tokens(args, r, t, stop, sums, size, load, load_first):
    """Rows r .. r + 16 times tokens t .. stop, a group after the other."""
    row_bytes, n_cols, x, x_stride = field(args, ROW_BYTES), field(args, N_COLS), field(args, X), field(args, X_STRIDE)
    rows = field(args, WEIGHTS) + r * row_bytes
    while t < stop:
        n = _group_size(stop - t)
        for first in range(0, n_cols, COLUMNS):
            last = min(first + COLUMNS, n_cols)
            _multiply(args, n, rows, PANEL_ROWS, x + t * x_stride, first, last, sums, size, load, load_first)
        _fold(args, r, t, n, sums)
        t += n


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
    chunk = max(LEAST_CHUNK, CHUNK_BYTES // field(args, X_STRIDE) // PRODUCT_TOKENS * PRODUCT_TOKENS)
    while True:
        first, last = take_rows(args, counter)
        if first >= n_rows:
            return
        if n_tokens == 1:
            rows_one_by_one(args, first, last, 1, row_dot)
            continue
        stop = min(last, whole)
        if ASKS_AHEAD and n_tokens <= MOST_TOKENS:
            for r in range(first, stop, PANEL_ROWS):
                panel_times_few(args, r, n_tokens, sums, size, load, load_first)
                _fold_groups(args, r, n_tokens, sums, few_group_size)
        elif FEW > 0 and n_tokens <= FEW:  # the first tells the compiler to leave it out
            for r in range(first, stop, PANEL_ROWS):
                _few_tokens(args, r, n_tokens, sums, size, load, load_first)
        else:
            for t in range(0, n_tokens, chunk):
                for r in range(first, stop, PANEL_ROWS):
                    _many_tokens(args, r, t, min(t + chunk, n_tokens), sums, size, load, load_first)
        rows_one_by_one(args, max(first, whole), last, n_tokens, row_dot)
