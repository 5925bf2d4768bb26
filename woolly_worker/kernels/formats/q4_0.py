"""Q4_0: 32 weights in 18 bytes: d (f16), then 16 bytes with weight l in the low nibble of byte l, 16 + l in the high.

    weight = d * (q - 8)

Source: ggml-common.h `block_q4_0`, ggml-quants.c `dequantize_row_q4_0`.
"""

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.legacy import BLOCK, PANEL_BLOCK_BYTES, PANEL_D, PARTS, add_products, multiply_block
from woolly_worker.kernels.formats.nibbles import high_nibbles, low_nibbles, nibbles, nibbles_of_two, store_numbers
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import parts_in_sixteens
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    dot_u8i8,
    hsum,
    load_f16,
    load_i8x32,
    load_i8x64,
    prefetch,
    splat_f32x16,
    splat_i32x16,
    store,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.gathers import gather_columns, gather_first_halves_f32, gather_halves_f32
from woolly_worker.kernels.simd.tiles import vector_of

BLOCK_BYTES = 18
PLUS_120 = np.int32(0x78787878)  # in every byte: q - 8 + 128


@inline
def _unpack_column(q, place):
    """Four weights of sixteen rows from each half of the block."""
    store(place, add(low_nibbles(q), splat_i32x16(PLUS_120)))
    store(place + 256, add(high_nibbles(q), splat_i32x16(PLUS_120)))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(5):  # 16 * 18 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 2, row_bytes)
    _unpack_column(vector_of(q, 0), panel)
    _unpack_column(vector_of(q, 1), panel + 64)
    _unpack_column(vector_of(q, 2), panel + 128)
    _unpack_column(vector_of(q, 3), panel + 192)
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))


@inline
def _pair(block, x):
    return dot_u8i8(zero_i32x16(), nibbles_of_two(block, 2, BLOCK_BYTES), load_i8x64(x))


@inline
def _single(block, x):
    return hsum(dot_u8i8(zero_i32x8(), nibbles(block, 2), load_i8x32(x)))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens(row, x, n_cols, BLOCK_BYTES, 8, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: (q - 8) * d."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        store_numbers(nibbles(block, 2), 8, d, out + 128 * i)


FORMAT = quantised(
    "Q4_0",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    add_products=add_products,
    row_parts=row_parts,
    dequantize=dequantize,
)
