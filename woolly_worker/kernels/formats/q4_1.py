"""Q4_1: 32 weights in 20 bytes: d and m (f16), then 16 bytes with weight l in the low nibble of byte l, 16 + l in the
high.

    weight = d * q + m

Source: ggml-common.h `block_q4_1`, ggml-quants.c `dequantize_row_q4_1`.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES_WITH_MINS,
    PANEL_D,
    PANEL_M,
    PARTS,
    add_products_with_mins,
    multiply_block_with_mins,
)
from woolly_worker.kernels.formats.nibbles import (
    high_nibbles,
    low_nibbles,
    nibbles,
    nibbles_of_two,
    store_numbers_and_min,
)
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import ONE_128TH, parts_in_sixteens_with_mins
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    dot_u8i8,
    hsum,
    load_f16,
    load_i8x32,
    load_i8x64,
    mul,
    prefetch,
    splat_f32x16,
    store,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.gathers import gather_columns, gather_first_halves_f32, gather_halves_f32
from woolly_worker.kernels.simd.tiles import vector_of

BLOCK_BYTES = 20


@inline
def _unpack_column(q, place):
    """Four weights of sixteen rows from each half of the block."""
    store(place, low_nibbles(q))
    store(place + 256, high_nibbles(q))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(5):  # 16 * 20 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 4, row_bytes)
    _unpack_column(vector_of(q, 0), panel)
    _unpack_column(vector_of(q, 1), panel + 64)
    _unpack_column(vector_of(q, 2), panel + 128)
    _unpack_column(vector_of(q, 3), panel + 192)
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))
    store(panel + PANEL_M, mul(gather_halves_f32(block + 2, row_bytes), splat_f32x16(ONE_128TH)))


@inline
def _pair(block, x):
    return dot_u8i8(zero_i32x16(), nibbles_of_two(block, 4, BLOCK_BYTES), load_i8x64(x))


@inline
def _single(block, x):
    return hsum(dot_u8i8(zero_i32x8(), nibbles(block, 4), load_i8x32(x)))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens_with_mins(row, x, n_cols, BLOCK_BYTES, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: q * d + m."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        m = splat_f32x16(load_f16(block + 2))
        store_numbers_and_min(nibbles(block, 4), d, m, out + 128 * i)


FORMAT = quantised(
    "Q4_1",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    panel_block_bytes=PANEL_BLOCK_BYTES_WITH_MINS,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block_with_mins,
    add_products=add_products_with_mins,
    row_parts=row_parts,
    dequantize=dequantize,
)
