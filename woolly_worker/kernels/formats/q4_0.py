"""Q4_0: 32 weights in 18 bytes: d (f16), then 16 bytes with weight l in the low nibble of byte l, 16 + l in the high.

    weight = d * (q - 8)

Source: ggml-common.h `block_q4_0`, ggml-quants.c `dequantize_row_q4_0`.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8_BYTES, Q8_SCALE, Q8_SUM, Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.legacy import PANEL_BLOCK_BYTES, PANEL_D
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    and_bits,
    concat,
    dot_u8i8,
    fma_scalar,
    hsum,
    load_f16,
    load_f32,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    load_i32,
    mul,
    prefetch,
    shift_right,
    splat_f32x16,
    splat_i32x16,
    store,
    sub,
    to_f32,
    zero_extend,
    zero_i32x8,
)
from woolly_worker.kernels.simd.tiles import (
    accumulate_each,
    dot_groups,
    gather_columns,
    gather_halves_f32,
    sub_splat_each,
    vector_of,
    zeros_i32_like,
)

BLOCK, BLOCK_BYTES = 32, 18


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel."""
    for line in range(5):  # 16 * 18 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 2, row_bytes)
    store(panel, and_bits(vector_of(q, 0), 0x0F0F0F0F))
    store(panel + 64, and_bits(vector_of(q, 1), 0x0F0F0F0F))
    store(panel + 128, and_bits(vector_of(q, 2), 0x0F0F0F0F))
    store(panel + 192, and_bits(vector_of(q, 3), 0x0F0F0F0F))
    store(panel + 256, and_bits(shift_right(vector_of(q, 0), 4), 0x0F0F0F0F))
    store(panel + 320, and_bits(shift_right(vector_of(q, 1), 4), 0x0F0F0F0F))
    store(panel + 384, and_bits(shift_right(vector_of(q, 2), 4), 0x0F0F0F0F))
    store(panel + 448, and_bits(shift_right(vector_of(q, 3), 4), 0x0F0F0F0F))
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))


@inline
def multiply_block(panel, x, x_stride, acc):
    """acc[t] += panel . x[t]: the offset of every q leaves as 8 * (sum of the activations)."""
    s = dot_groups(zeros_i32_like(acc), panel, x, x_stride, 8)
    s = sub_splat_each(s, x + Q8_SUM, x_stride, 8)
    return accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8_SCALE, x_stride, s)


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    acc = np.float32(0)
    for i in range(n_cols // BLOCK):
        block, xi = row + i * BLOCK_BYTES, x + i * Q8_BYTES
        prefetch(block + 1024)
        packed = load_i8x16(block + 2)
        q = concat(and_bits(packed, 15), shift_right(packed, 4))
        s = hsum(dot_u8i8(zero_i32x8(), q, load_i8x32(xi))) - np.int32(8) * load_i32(xi + Q8_SUM)
        acc = fma_scalar(load_f16(block) * load_f32(xi + Q8_SCALE), np.float32(s), acc)
    return acc


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: (q - 8) * d."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        packed = zero_extend(load_i8x16(block + 2))
        eight = splat_i32x16(np.int32(8))
        store(out + 128 * i, mul(to_f32(sub(and_bits(packed, 15), eight)), d))
        store(out + 128 * i + 64, mul(to_f32(sub(shift_right(packed, 4), eight)), d))


@kernel
def row_dot_q4_0(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES, Q8_BYTES)


@op
def matmul_q4_0(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, unpack_block, multiply_block, row_dot)


@op
def embed_q4_0(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="Q4_0",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    matmul=matmul_q4_0,
    embed=embed_q4_0,
    dequantize=dequantize,
    row_dot=row_dot_q4_0,
    panel_block_bytes=PANEL_BLOCK_BYTES,
)
