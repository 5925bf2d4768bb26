"""Floats times a few tokens, for CPUs that like to be asked for one line at a time (see `ahead.py`).

A register tile is two rows by up to eight tokens (three, where registers hold eight floats), so that a row is read, and
turned into f32, once for all of them. Panels of sixteen rows are read strip by strip, a strip of every row, while the
strip's activations stay in L1. Each line is asked for once, ROWS_AHEAD rows before its time in that order.

What is added to what is as in `float_loops.py`.
"""

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import N_COLS, PANEL_ROWS, ROW_BYTES, VECTOR_BYTES, WEIGHTS, X_STRIDE, X
from woolly_worker.kernels.simd import fma_products, load_each, prefetch, store_each, two_vectors, zeros_f32
from woolly_worker.kernels.step import field

MOST_TOKENS = 16 if CPU.has_avx512 else 8
COLUMNS = 256  # sixteen tokens' activations: 16 KB, eight tokens' 8 KB
ROWS_AHEAD = 8


@inline
def _ask_for(ahead, size):
    """The lines of 32 weights."""
    prefetch(ahead)
    if size == 4:
        prefetch(ahead + 64)


@inline
def _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros):
    """sums[r, t] += columns first .. last of two rows times the tokens of `zeros`; = where first is 0. `ahead` is where
    the first of two rows lies that are asked for, from the same column on."""
    acc = zeros
    if first > 0:
        acc = load_each(sums, VECTOR_BYTES, zeros)
    whole, k = last - last % 16, first
    while k + 32 <= whole:
        here = row + size * k
        _ask_for(ahead, size)
        acc = fma_products(acc, two_vectors(load(here), load(here + row_bytes)), x + 4 * k, x_stride)
        here += 16 * size
        _ask_for(ahead + row_bytes, size)
        acc = fma_products(acc, two_vectors(load(here), load(here + row_bytes)), x + 4 * k + 64, x_stride)
        ahead += 32 * size
        k += 32
    if k < whole:
        here = row + size * k
        acc = fma_products(acc, two_vectors(load(here), load(here + row_bytes)), x + 4 * k, x_stride)
    if whole < last:  # the activations' rows are padded with zeros; the weights' are not
        here, n = row + size * whole, last - whole
        rows = two_vectors(load_first(here, n), load_first(here + row_bytes, n))
        acc = fma_products(acc, rows, x + 4 * whole, x_stride)
    store_each(sums, VECTOR_BYTES, acc)


if CPU.has_avx512:

    @inline
    def few_group_size(n_left):
        return 8 if n_left >= 8 else 6 if n_left >= 6 else 4 if n_left >= 4 else 2 if n_left >= 2 else 1

    @subroutine
    def _multiply(n, row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first):
        """A group of n tokens, see _tile."""
        if n == 8:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(16))
        elif n == 6:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(12))
        elif n == 4:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(8))
        elif n == 2:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(4))
        else:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(2))

else:

    @inline
    def few_group_size(n_left):
        return 3 if n_left >= 3 and n_left != 4 else 2 if n_left >= 2 else 1

    @subroutine
    def _multiply(n, row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first):
        """A group of n tokens, see _tile."""
        if n == 3:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(6))
        elif n == 2:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(4))
        else:
            _tile(row, row_bytes, ahead, x, x_stride, first, last, sums, size, load, load_first, zeros_f32(2))


@inline
def _ahead_of(rows, q, row_bytes, first, last, n_cols, size):
    """Where the strip lies that is read ROWS_AHEAD rows after row q's from `first` to `last`: of the same panel, of its
    next strip, or of the next panel."""
    q += ROWS_AHEAD
    if q < PANEL_ROWS:
        return rows + q * row_bytes + size * first
    if last < n_cols:
        return rows + (q - PANEL_ROWS) * row_bytes + size * last
    return rows + q * row_bytes


@inline
def panel_times_few(args, r, n_tokens, sums, size, load, load_first):
    """Rows r .. r + 16 times all tokens, not folded yet. Each group has its own sums, one behind the other."""
    row_bytes, n_cols, x, x_stride = field(args, ROW_BYTES), field(args, N_COLS), field(args, X), field(args, X_STRIDE)
    rows = field(args, WEIGHTS) + r * row_bytes
    for first in range(0, n_cols, COLUMNS):
        last = min(first + COLUMNS, n_cols)
        for q in range(0, PANEL_ROWS, 2):
            row, ahead = rows + q * row_bytes, _ahead_of(rows, q, row_bytes, first, last, n_cols, size)
            t = 0
            while t < n_tokens:
                n = few_group_size(n_tokens - t)
                y, s = x + t * x_stride, sums + (PANEL_ROWS * t + q * n) * VECTOR_BYTES
                _multiply(n, row, row_bytes, ahead, y, x_stride, first, last, s, size, load, load_first)
                ahead = row + size * first  # once is enough: these are here
                t += n
