"""The innermost loop of float matrices times tokens: a strip of columns of PRODUCT_ROWS rows times a group of tokens.

    sums[r, t] += columns first .. last of row r times token t; = where first is 0

Where registers hold sixteen floats, each vector of a row meets all tokens. Where they hold eight, lanes 0..7 of the
sixteen sums go over the strip before lanes 8..15 do: so four rows and three tokens fill sixteen registers, and seven
loads feed twelve products. The tokens' vectors are loaded first, and a row's at a time: with all rows in registers one
of the sums would have to leave them. Zen 3 asks for nothing ahead: its load ports have enough to do.
"""

from typing import Any

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import VECTOR_BYTES
from woolly_worker.kernels.simd import (
    fma_products,
    fma_row,
    four_vectors,
    lanes_of,
    load_each,
    load_tokens,
    prefetch,
    store_each,
)
from woolly_worker.kernels.simd.sizes import PRODUCT_LANES, PRODUCT_ROWS

PART_BYTES = 4 * PRODUCT_LANES
assert PRODUCT_ROWS == 4  # written out below
AHEAD = 2048  # bytes: how far a row is asked for before it is used


if CPU.level == "avx2":

    @inline
    def ask(row, row_bytes):
        """Nothing."""

else:

    @inline
    def ask(row, row_bytes):
        for r in range(PRODUCT_ROWS):
            prefetch(row + r * row_bytes + AHEAD)


def _strip_of(part: int) -> Any:
    """`multiply_strip` for the lanes of one part."""

    if PRODUCT_LANES == 16:

        @inline
        def times(acc, row, row_bytes, x, x_stride, load):
            one, two, three = row + row_bytes, row + 2 * row_bytes, row + 3 * row_bytes
            ask(row, row_bytes)
            return fma_products(acc, four_vectors(load(row), load(one), load(two), load(three)), x, x_stride)

    else:

        @inline
        def times(acc, row, row_bytes, x, x_stride, load):
            if part == 0:
                ask(row, row_bytes)
            tokens = load_tokens(x, x_stride, acc)
            acc = fma_row(acc, 0, lanes_of(load(row), part), tokens)
            acc = fma_row(acc, 1, lanes_of(load(row + row_bytes), part), tokens)
            acc = fma_row(acc, 2, lanes_of(load(row + 2 * row_bytes), part), tokens)
            return fma_row(acc, 3, lanes_of(load(row + 3 * row_bytes), part), tokens)

    @inline
    def times_first(acc, row, row_bytes, n, x, x_stride, load_first):
        """The last n columns: the activations' rows are padded with zeros, the weights' are not."""
        tokens = load_tokens(x, x_stride, acc)
        acc = fma_row(acc, 0, lanes_of(load_first(row, n), part), tokens)
        acc = fma_row(acc, 1, lanes_of(load_first(row + row_bytes, n), part), tokens)
        acc = fma_row(acc, 2, lanes_of(load_first(row + 2 * row_bytes, n), part), tokens)
        return fma_row(acc, 3, lanes_of(load_first(row + 3 * row_bytes, n), part), tokens)

    @inline
    def strip(row, row_bytes, x, x_stride, first, last, sums, size, load, load_first, zeros):
        """sums[r, t] += columns first .. last of PRODUCT_ROWS rows times as many tokens as `zeros` has; = where first
        is 0."""
        x, sums = x + part * PART_BYTES, sums + part * PART_BYTES
        acc = zeros
        if first > 0:
            acc = load_each(sums, VECTOR_BYTES, zeros)
        whole = last - last % 16
        for k in range(first, whole, 16):
            acc = times(acc, row + size * k, row_bytes, x + 4 * k, x_stride, load)
        if whole < last:
            acc = times_first(acc, row + size * whole, row_bytes, last - whole, x + 4 * whole, x_stride, load_first)
        store_each(sums, VECTOR_BYTES, acc)

    return strip


_first = _strip_of(0)

if PRODUCT_LANES == 16:
    multiply_strip = _first
else:
    _second = _strip_of(1)

    @inline
    def multiply_strip(row, row_bytes, x, x_stride, first, last, sums, size, load, load_first, zeros):
        """One part after the other."""
        _first(row, row_bytes, x, x_stride, first, last, sums, size, load, load_first, zeros)
        _second(row, row_bytes, x, x_stride, first, last, sums, size, load, load_first, zeros)
