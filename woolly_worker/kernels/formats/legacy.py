"""What the formats of 32 weights with one or two f16 scales share: their panel, and how tokens are multiplied by it.

    weight = d * w            w signed, kept in the panel as w + 128, so that the bytes are unsigned
    weight = d * q + m        q unsigned

A block of sixteen rows in the panel is [8 groups][16 rows][4 columns] u8, then d as f32 x 16 rows, then m / 128.
"""

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN, Q8_SCALES, Q8_SUMS, Q8_VALUES
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import load_f32x16
from woolly_worker.kernels.simd.tiles import (
    accumulate_each,
    accumulate_splat_each,
    dot_groups,
    sub_splat_each,
    zeros_i32_like,
)

BLOCK = 32
PARTS = 16  # a lane of `sixteens.py` each
PANEL_D = 8 * 64
PANEL_BLOCK_BYTES = PANEL_D + 64
PANEL_M = PANEL_D + 64  # where there is one
PANEL_BLOCK_BYTES_WITH_MINS = PANEL_M + 64
RUNS = Q8_VALUES // Q8_RUN


@inline
def add_products(panel, x, i, x_stride, acc, s):
    """The float step of block i, whose products are s. The 128 that every weight is too large leaves as 128 * (sum of
    the activations)."""
    record, run = x + (i // RUNS) * Q8_BYTES, i % RUNS
    s = sub_splat_each(s, record + Q8_SUMS + 4 * run, x_stride, 1)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), record + Q8_SCALES + 4 * run, x_stride, s)


@inline
def add_products_with_mins(panel, x, i, x_stride, acc, s):
    """The same for unsigned q and a minimum: its part is m / 128 times 128 times the sum of the activations."""
    record, run = x + (i // RUNS) * Q8_BYTES, i % RUNS
    acc = accumulate_each(acc, load_f32x16(panel + PANEL_D), record + Q8_SCALES + 4 * run, x_stride, s)
    m, scales, sums = load_f32x16(panel + PANEL_M), record + Q8_SCALES + 4 * run, record + Q8_SUMS + 4 * run
    return accumulate_splat_each(acc, m, scales, sums, x_stride)


@inline
def _products(panel, x, i, x_stride, acc):
    return dot_groups(zeros_i32_like(acc), panel, x + i // RUNS * Q8_BYTES + Q8_RUN * (i % RUNS), x_stride, 8)


@inline
def multiply_block(panel, x, i, x_stride, acc):
    """acc[t] += panel . x[t]."""
    return add_products(panel, x, i, x_stride, acc, _products(panel, x, i, x_stride, acc))


@inline
def multiply_block_with_mins(panel, x, i, x_stride, acc):
    """The same with a minimum."""
    return add_products_with_mins(panel, x, i, x_stride, acc, _products(panel, x, i, x_stride, acc))
