"""What panels of low-bit formats share: bytes that hold weight times sub-scale already.

Where the products of quantised values and integer sub-scales fit a byte, `unpack_block` puts them into the panel, and
a block of 256 is one integer dot product for each row and token. Every token then saves sixteen products and sums.

The matrix unit takes such a panel as its only plane.

A format with one f16 for a block has the panel [64 groups][16 rows][4 columns] u8 and then d as f32 x 16 rows.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUM
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import MatrixUnit
from woolly_worker.kernels.simd import (
    accumulate_each,
    and_bits,
    as_i16x32,
    bor,
    dot_groups,
    dot_groups_times,
    fma,
    load_f32,
    load_f32x16,
    load_i32,
    load_i32x16,
    mul,
    shift_left,
    splat_f32x16,
    splat_i32x16,
    sub,
    sub_splat_each,
    to_f32,
    zeros_i32_like,
)

PANEL_D = 4096
PANEL_BLOCK_BYTES = PANEL_D + 64


@inline
def dot_block(panel, x, x_stride, like, largest):
    """256 columns times as many tokens as `like` has vectors, as i32. 256 * 255 * 127 < 2**31."""
    s = zeros_i32_like(like)
    for j in range(8):
        s = dot_groups(s, panel + 512 * j, x + 32 * j, x_stride, 8, largest)
    return s


def multiply_bytes(largest: int, offset: int) -> Any:
    """The `multiply_block` of a panel whose bytes are at most `largest`, and `offset` too large. Integers: 256 *
    (largest + offset) * 127 < 2**31."""

    @inline
    def multiply_block(panel, x, i, x_stride, acc):
        """acc[t] += panel . x[t]."""
        x += i * Q8K_BYTES
        s = dot_block(panel, x, x_stride, acc, largest)
        s = sub_splat_each(s, x + Q8K_SUM, x_stride, offset)
        return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, s)

    return multiply_block


def dot_block_times(n_scales: int, largest: int | None) -> Any:
    """total += 256 columns times as many tokens as it has vectors, each of n_scales sub-blocks times its sub-scale: i32
    x 16 rows each, from the address `scales` on. `largest` as in dot_groups."""
    columns = 256 // n_scales
    n_groups, n_bytes = columns // 4, 16 * columns

    @inline
    def dot(total, panel, scales, x, x_stride):
        for j in range(n_scales):
            scale = load_i32x16(scales + 64 * j)
            total = dot_groups_times(total, panel + n_bytes * j, x + columns * j, x_stride, n_groups, largest, scale)
        return total

    return dot


@inline
def in_both_halves(scale):
    """A sub-scale from every i32 lane in both of its 16-bit halves.

    Times two bytes each, modulo 2**16: right for both bytes whenever the two products (and what is added to them) end
    up in 0..255, also if something between is negative or larger.
    """
    return as_i16x32(bor(and_bits(scale, 0xFFFF), shift_left(scale, 16)))


def unit_of_bytes(unpack_factors: Any, quarters: tuple[Any, Any, Any, Any], offset: int) -> MatrixUnit:
    """Of a panel whose bytes are `offset` too large; unpack_factors stores d as f32 x 16 rows."""
    times = np.int32(offset)

    @inline
    def add_token(d, record, total, acc):
        """The float step of a block."""
        total = sub(total, splat_i32x16(times * load_i32(record + Q8K_SUM)))
        return fma(mul(d, splat_f32x16(load_f32(record + Q8K_SCALE))), to_f32(total), acc)

    return MatrixUnit(unpack_factors, quarters, load_f32x16, add_token, upper=None)
