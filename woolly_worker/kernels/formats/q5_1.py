"""Q5_1: 32 weights in 24 bytes: d and m (f16), 32 high bits, then 16 bytes of low nibbles as in Q4_1.

    weight = d * q + m,   bit l of the high bits is bit 4 of weight l's q

Source: ggml-common.h `block_q5_1`, ggml-quants.c `dequantize_row_q5_1`.
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
    fifth_of_four,
    fives,
    fives_of_two,
    high_nibbles,
    low_nibbles,
    store_numbers_and_min,
)
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import ONE_128TH, parts_in_sixteens_with_mins
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    bor,
    dot_u8i8,
    hsum,
    load_f16,
    load_i8x32,
    load_i8x64,
    mul,
    prefetch,
    shift_right,
    splat_f32x16,
    store,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.gathers import gather_columns, gather_first_halves_f32, gather_halves_f32, gather_i32
from woolly_worker.kernels.simd.tiles import vector_of

BLOCK_BYTES = 24


@inline
def _unpack_column(q, bits, place):
    """Four weights of sixteen rows from each half of the block; `bits` begins with their fifth bits. Returns the next
    columns'."""
    store(place, bor(low_nibbles(q), fifth_of_four(bits)))
    store(place + 256, bor(high_nibbles(q), fifth_of_four(shift_right(bits, 16))))
    return shift_right(bits, 4)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(6):  # 16 * 24 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 8, row_bytes)
    bits = gather_i32(block + 4, row_bytes)
    bits = _unpack_column(vector_of(q, 0), bits, panel)
    bits = _unpack_column(vector_of(q, 1), bits, panel + 64)
    bits = _unpack_column(vector_of(q, 2), bits, panel + 128)
    _unpack_column(vector_of(q, 3), bits, panel + 192)
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))
    store(panel + PANEL_M, mul(gather_halves_f32(block + 2, row_bytes), splat_f32x16(ONE_128TH)))


@inline
def _pair(block, x):
    return dot_u8i8(zero_i32x16(), fives_of_two(block, 8, 4, BLOCK_BYTES), load_i8x64(x))


@inline
def _single(block, x):
    return hsum(dot_u8i8(zero_i32x8(), fives(block, 8, 4), load_i8x32(x)))


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
        store_numbers_and_min(fives(block, 8, 4), d, m, out + 128 * i)


FORMAT = quantised(
    "Q5_1",
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
