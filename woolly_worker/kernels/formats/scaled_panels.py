"""Panels of 256 weights in sixteen sub-blocks, each with an integer sub-scale: small bytes, and the scales beside them.

    bytes      0.. 4096   q + offset as [64 groups][16 rows][4 columns] u8
            4096.. 5120   i32 x 16 rows: the sub-scale, for each of 16 sub-blocks
            5120.. 5632   the same scales as pairs of i16, to take the offset away
            5632.. 5696   d, f32 x 16 rows

Shared by Q6_K and, where products of bytes are added up in 16 bits, Q3_K.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS16
from woolly_worker.kernels.formats.panels import dot_block_times
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    accumulate_each,
    and_bits,
    bor,
    bxor,
    dot_pairs,
    load_f32x16,
    shift_left,
    shift_right_signed,
    splat_i32x16,
    store,
    sub,
    sub_scaled_each,
    zeros_i32_like,
)

PANEL_SCALES = 4096
PANEL_PAIRS = PANEL_SCALES + 16 * 64
PANEL_D = PANEL_PAIRS + 8 * 64
PANEL_BLOCK_BYTES = PANEL_D + 64


@inline
def less_32(scales):
    """Four bytes a lane, scale - 32, from bytes 0..63: none touches its neighbour."""
    signs = splat_i32x16(np.int32(-0x7F7F7F80))
    return bxor(sub(bor(scales, signs), splat_i32x16(np.int32(0x20202020))), signs)


@inline
def store_scales(four, panel, j):
    """Scales 4 j .. 4 j + 3 of sixteen rows: signed bytes, four in every lane."""
    s0 = shift_right_signed(shift_left(four, 24), 24)
    s1 = shift_right_signed(shift_left(four, 16), 24)
    s2 = shift_right_signed(shift_left(four, 8), 24)
    s3 = shift_right_signed(four, 24)
    place = panel + PANEL_SCALES + 256 * j
    store(place, s0)
    store(place + 64, s1)
    store(place + 128, s2)
    store(place + 192, s3)
    pairs = panel + PANEL_PAIRS + 128 * j
    store(pairs, bor(and_bits(s0, 0xFFFF), shift_left(s1, 16)))
    store(pairs + 64, bor(and_bits(s2, 0xFFFF), shift_left(s3, 16)))


def multiply_scaled(largest: int, offset: int) -> Any:
    """The `multiply_block` of a format whose panel has bytes up to `largest`, `offset` too large. Integers: 256 * 127 *
    the largest scale * (largest + offset) < 2**31."""

    dot = dot_block_times(16, largest)

    @inline
    def multiply_block(panel, x, i, x_stride, acc):
        """acc[t] += panel . x[t]."""
        x += i * Q8K_BYTES
        total = dot(zeros_i32_like(acc), panel, panel + PANEL_SCALES, x, x_stride)
        offsets = dot_pairs(zeros_i32_like(acc), panel + PANEL_PAIRS, x + Q8K_SUMS16, x_stride, 8)
        total = sub_scaled_each(total, offsets, offset)
        return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)

    return multiply_block
