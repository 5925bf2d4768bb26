"""Q4_1: 32 weights in 20 bytes: d and m (f16), then 16 bytes with weight l in the low nibble of byte l, 16 + l in the
high.

    weight = d * q + m

Source: ggml-common.h `block_q4_1`, ggml-quants.c `dequantize_row_q4_1`.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES_WITH_MINS,
    PANEL_D,
    PANEL_M,
    PARTS,
    multiply_block_with_mins,
)
from woolly_worker.kernels.formats.sixteens import ONE_128TH, dot_in_sixteens_with_mins
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    concat,
    dot_u8i8,
    hsum,
    load_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    mul,
    prefetch,
    shift_right,
    shift_sixteens,
    sixteen_twice,
    splat_f32x16,
    store,
    to_f32,
    zero_extend,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import gather_columns, gather_first_halves_f32, gather_halves_f32, vector_of

BLOCK_BYTES = 20


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(5):  # 16 * 20 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 4, row_bytes)
    store(panel, and_bits(vector_of(q, 0), 0x0F0F0F0F))
    store(panel + 64, and_bits(vector_of(q, 1), 0x0F0F0F0F))
    store(panel + 128, and_bits(vector_of(q, 2), 0x0F0F0F0F))
    store(panel + 192, and_bits(vector_of(q, 3), 0x0F0F0F0F))
    store(panel + 256, and_bits(shift_right(vector_of(q, 0), 4), 0x0F0F0F0F))
    store(panel + 320, and_bits(shift_right(vector_of(q, 1), 4), 0x0F0F0F0F))
    store(panel + 384, and_bits(shift_right(vector_of(q, 2), 4), 0x0F0F0F0F))
    store(panel + 448, and_bits(shift_right(vector_of(q, 3), 4), 0x0F0F0F0F))
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))
    store(panel + PANEL_M, mul(gather_halves_f32(block + 2, row_bytes), splat_f32x16(ONE_128TH)))


@inline
def _pair(block, x):
    packed = concat(load_i8x16(block + 4), load_i8x16(block + 24))
    q = and_bits(shift_sixteens(sixteen_twice(packed), 0, 4), 15)
    return dot_u8i8(zero_i32x16(), q, load_i8x64(x))


@inline
def _single(block, x):
    packed = load_i8x16(block + 4)
    q = concat(and_bits(packed, 15), shift_right(packed, 4))
    return hsum(dot_u8i8(zero_i32x8(), q, load_i8x32(x)))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    return dot_in_sixteens_with_mins(row, x, n_cols, BLOCK_BYTES, _pair, _single, _scales)


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: q * d + m."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        m = splat_f32x16(load_f16(block + 2))
        packed = load_i8x16(block + 4)
        store(out + 128 * i, add(mul(to_f32(zero_extend(and_bits(packed, 15))), d), m))
        store(out + 128 * i + 64, add(mul(to_f32(zero_extend(shift_right(packed, 4))), d), m))


@kernel
def row_dot_q4_1(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES_WITH_MINS)


@op
def matmul_q4_1(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, PARTS, unpack_block, multiply_block_with_mins, row_dot)


@op
def embed_q4_1(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="Q4_1",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    matmul=matmul_q4_1,
    embed=embed_q4_1,
    dequantize=dequantize,
    row_dot=row_dot_q4_1,
    panel_block_bytes=PANEL_BLOCK_BYTES_WITH_MINS,
    parts=PARTS,
)
