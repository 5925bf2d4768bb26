"""TQ2_0: 256 weights of -1, 0 and 1 in 66 bytes.

    bytes    0..64   qs   2-bit values; byte 32 h + l holds weight 128 h + 32 k + l in bits 2 k .. 2 k + 2
            64..66   d    f16

    weight = d * (q - 1)

The kernels keep q unsigned and take the sum of the activations away. q = 3, which no file should have, means 2.

Source: ggml-common.h `block_tq2_0`, ggml-quants.c `dequantize_row_tq2_0`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_SUMS16, Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import PANEL_BLOCK_BYTES, PANEL_D, multiply_bytes, unit_of_bytes
from woolly_worker.kernels.formats.q2_k import load_runs
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    and_bits,
    dot_u8i8,
    gather_columns,
    gather_i32,
    high_halves_f32,
    load_f16,
    load_four_f16,
    load_i8x16,
    load_i8x64,
    load_i16x16,
    mul,
    prefetch,
    shift_right,
    sign_extend,
    splat_f32x16,
    splat_i32x16,
    store,
    sub,
    to_f32,
    vector_of,
    zero_extend,
    zero_i32x16,
)

BLOCK, BLOCK_BYTES = 256, 66
D = 64

QUARTER_AHEAD = 64 * 5  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines


@inline
def _unpack_column(q, place):
    """Four weights of sixteen rows from each of the four runs of 32."""
    store(place, and_bits(q, 0x03030303))
    store(place + 512, and_bits(shift_right(q, 2), 0x03030303))
    store(place + 1024, and_bits(shift_right(q, 4), 0x03030303))
    store(place + 1536, and_bits(shift_right(q, 6), 0x03030303))


def _quarter(k: int) -> Any:
    """For the matrix unit, sixteen bytes from every row: part k % 2 of half k // 2."""

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        q, place = gather_columns(block + 16 * k, row_bytes), planes + 2048 * (k // 2) + 256 * (k % 2)
        ahead += QUARTER_AHEAD * k
        prefetch(ahead + 256)
        prefetch(ahead)
        _unpack_column(vector_of(q, 0), place)
        prefetch(ahead + 64)
        _unpack_column(vector_of(q, 1), place + 64)
        prefetch(ahead + 128)
        _unpack_column(vector_of(q, 2), place + 128)
        prefetch(ahead + 192)
        _unpack_column(vector_of(q, 3), place + 192)

    return unpack_quarter


@inline
def _unpack_factors(block, row_bytes, factors):
    store(factors, high_halves_f32(gather_i32(block + D - 2, row_bytes)))
    return ()


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel of q, see `panels`."""
    for line in range(17):  # 16 * 66 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    for k in range(4):  # sixteen bytes: half k // 2, part k % 2
        q, place = gather_columns(block + 16 * k, row_bytes), panel + 2048 * (k // 2) + 256 * (k % 2)
        _unpack_column(vector_of(q, 0), place)
        _unpack_column(vector_of(q, 1), place + 64)
        _unpack_column(vector_of(q, 2), place + 128)
        _unpack_column(vector_of(q, 3), place + 192)
    store(panel + PANEL_D, high_halves_f32(gather_i32(block + D - 2, row_bytes)))


multiply_block = multiply_bytes(3, 1)  # shared with TQ1_0


@inline
def without_ones(sums, x):
    """Sixteen lanes of partial sums with the activations taken away, as q is 1 too large. Shared with TQ1_0."""
    return sub(sums, sign_extend(load_i16x16(x + Q8K_SUMS16)))


@inline
def _scaled_sums(block, x):
    ask_ahead(block)
    q = load_i8x64(block)
    s = dot_u8i8(zero_i32x16(), and_bits(q, 3), load_runs(x), 3)
    s = dot_u8i8(s, and_bits(shift_right(q, 2), 3), load_runs(x + 32), 3)
    s = dot_u8i8(s, and_bits(shift_right(q, 4), 3), load_runs(x + 64), 3)
    return without_ones(dot_u8i8(s, shift_right(q, 6), load_runs(x + 96), 3), x)


@inline
def _four_scales(b0, b1, b2, b3):
    return load_four_f16(b0 + D, b1 + D, b2 + D, b3 + D)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: (q - 1) * d."""
    one = splat_i32x16(np.int32(1))
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block + D))
        for h in range(2):
            for part in range(2):
                q = zero_extend(load_i8x16(block + 32 * h + 16 * part))
                for k in range(4):
                    place = out + 4 * (256 * i + 128 * h + 32 * k + 16 * part)
                    store(place, mul(to_f32(sub(and_bits(q, 3), one)), d))
                    q = shift_right(q, 2)


FORMAT = quantised(
    "TQ2_0",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours(BLOCK_BYTES, _scaled_sums, _four_scales),
    dequantize=dequantize,
    matrix_unit=unit_of_bytes(_unpack_factors, (_quarter(0), _quarter(1), _quarter(2), _quarter(3)), offset=1),
)
