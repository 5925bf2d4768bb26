"""What the formats of 32 weights with one or two f16 scales share: their panel, and how tokens are multiplied by it.

    weight = d * w            w signed, kept in the panel as w + OFFSET, so that the bytes are unsigned
    weight = d * q + m        q unsigned

Where products of bytes are added up in 16 bits (see simd/bytes.py), w + OFFSET of full range does not fit: there panels
of Q8_0 and IQ4_NL hold w itself.

A block of sixteen rows in the panel is [8 groups][16 rows][4 columns] u8, then d as f32 x 16 rows, then m / 128. A
matrix unit takes signed bytes as well, so its panel holds w itself, and nothing has to be taken away.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN, Q8_SCALES, Q8_SUMS, Q8_VALUES
from woolly_worker.kernels.formats.nibbles import fifth_of_four, high_nibbles, low_nibbles
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import PANEL_ROWS
from woolly_worker.kernels.simd import (
    accumulate_each,
    accumulate_splat_each,
    add,
    as_i8x64,
    bor,
    dot_groups,
    filled_like,
    gather_columns,
    gather_i32,
    high_halves_f32,
    load_f32x16,
    low_halves_f32,
    mul,
    prefetch,
    shift_right,
    splat_f32x16,
    store,
    sub_shifted_each,
    vector_of,
    zeros_i32_like,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS

BLOCK = 32


def offset_of(magnitude: int) -> int:
    """What makes weights from -magnitude on unsigned in a panel: no more than that where small bytes are faster, else
    128, whose share of a result lies ready in the activations."""
    return magnitude if IN_SHORTS else 128


PARTS = 16  # a lane of `sixteens.py` each
PANEL_D = 8 * 64
PANEL_BLOCK_BYTES = PANEL_D + 64
PANEL_M = PANEL_D + 64  # where there is one
PANEL_BLOCK_BYTES_WITH_MINS = PANEL_M + 64
RUNS = Q8_VALUES // Q8_RUN
ONE_128TH = np.float32(1 / 128)


@inline
def store_d(block, row_bytes, panel):
    """The scales of a panel, from the first two bytes of a block."""
    store(panel + PANEL_D, low_halves_f32(gather_i32(block, row_bytes)))


@inline
def store_d_and_m(block, row_bytes, panel):
    """The same with minimums behind them."""
    both = gather_i32(block, row_bytes)
    store(panel + PANEL_D, low_halves_f32(both))
    store(panel + PANEL_M, mul(high_halves_f32(both), splat_f32x16(ONE_128TH)))


@inline
def as_it_is(q):
    return q


def moved_by(n: int) -> Any:
    """A part that adds n to each byte of a vector."""

    @inline
    def moved(q):
        q = as_i8x64(q)
        return add(q, filled_like(q, n))

    return moved


def panel_of_nibbles(block_bytes: int, at: int, value: Any, store_scales: Any) -> Any:
    """The unpack_block of a format with sixteen bytes of nibbles `at` bytes into its block, see `nibbles.py`: value(q)
    is what the panel holds for the bytes q; store_scales(block, row_bytes, panel) adds the rest."""
    lines_left = -(-PANEL_ROWS * block_bytes // 64) - 4

    @inline
    def column(q, ahead, place):
        """Four weights of sixteen rows from each half of the block."""
        prefetch(ahead)
        store(place, value(low_nibbles(q)))
        store(place + 256, value(high_nibbles(q)))

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        """One block of sixteen rows into a panel; an equal share of the next sixteen rows is asked for, see q4_k."""
        q = gather_columns(block + at, row_bytes)
        column(vector_of(q, 0), ahead, panel)
        column(vector_of(q, 1), ahead + 64, panel + 64)
        column(vector_of(q, 2), ahead + 128, panel + 128)
        column(vector_of(q, 3), ahead + 192, panel + 192)
        store_scales(block, row_bytes, panel)
        for line in range(lines_left):
            prefetch(ahead + 256 + 64 * line)

    return unpack_block


def panel_of_fives(block_bytes: int, at: int, bits_at: int, value: Any, store_scales: Any) -> Any:
    """The same with fifth bits."""
    lines_left = -(-PANEL_ROWS * block_bytes // 64) - 4

    @inline
    def column(q, bits, ahead, place):
        """`bits` begins with the fifth bits of these columns. Returns those of the next ones."""
        prefetch(ahead)
        store(place, value(bor(low_nibbles(q), fifth_of_four(bits))))
        store(place + 256, value(bor(high_nibbles(q), fifth_of_four(shift_right(bits, 16)))))
        return shift_right(bits, 4)

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        q, bits = gather_columns(block + at, row_bytes), gather_i32(block + bits_at, row_bytes)
        bits = column(vector_of(q, 0), bits, ahead, panel)
        bits = column(vector_of(q, 1), bits, ahead + 64, panel + 64)
        bits = column(vector_of(q, 2), bits, ahead + 128, panel + 128)
        column(vector_of(q, 3), bits, ahead + 192, panel + 192)
        store_scales(block, row_bytes, panel)
        for line in range(lines_left):
            prefetch(ahead + 256 + 64 * line)

    return unpack_block


@inline
def add_signed_products(panel, x, i, x_stride, acc, s):
    """The float step of block i, whose products are s."""
    scales = x + i // RUNS * Q8_BYTES + Q8_SCALES + 4 * (i % RUNS)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), scales, x_stride, s)


@inline
def add_products_with_mins(panel, x, i, x_stride, acc, s):
    """The same for unsigned q and a minimum: its part is m / 128 times 128 times the sum of the activations."""
    acc = add_signed_products(panel, x, i, x_stride, acc, s)
    record, run = x + i // RUNS * Q8_BYTES, i % RUNS
    m, scales, sums = load_f32x16(panel + PANEL_M), record + Q8_SCALES + 4 * run, record + Q8_SUMS + 4 * run
    return accumulate_splat_each(acc, m, scales, sums, x_stride)


@inline
def values_of(x, i):
    """Where a token has the values of block i."""
    return x + i // RUNS * Q8_BYTES + i % RUNS * Q8_RUN


def multiply_raised(offset: int, largest: int) -> Any:
    """The multiply_block of a panel that holds w + offset, at most `largest`: what is too much leaves as offset * (sum
    of the activations)."""
    assert offset.bit_count() == 1, offset
    shift = 8 - offset.bit_length()  # records hold 128 times the sums

    @inline
    def multiply_block(panel, x, i, x_stride, acc):
        """acc[t] += panel . x[t]."""
        s = dot_groups(zeros_i32_like(acc), panel, values_of(x, i), x_stride, 8, largest)
        s = sub_shifted_each(s, x + i // RUNS * Q8_BYTES + Q8_SUMS + 4 * (i % RUNS), x_stride, shift)
        return add_signed_products(panel, x, i, x_stride, acc, s)

    return multiply_block


@inline
def multiply_signed(panel, x, i, x_stride, acc):
    """The multiply_block of w itself."""
    s = dot_groups(zeros_i32_like(acc), panel, values_of(x, i), x_stride, 8, None)
    return add_signed_products(panel, x, i, x_stride, acc, s)


def multiply_with_mins(largest: int) -> Any:
    """The multiply_block of unsigned q, at most `largest`, and a minimum."""

    @inline
    def multiply_block(panel, x, i, x_stride, acc):
        """acc[t] += panel . x[t]."""
        s = dot_groups(zeros_i32_like(acc), panel, values_of(x, i), x_stride, 8, largest)
        return add_products_with_mins(panel, x, i, x_stride, acc, s)

    return multiply_block
