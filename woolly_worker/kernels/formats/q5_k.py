"""Q5_K: 256 weights in 176 bytes: Q4_K with a fifth bit for every weight.

    bytes   0..  2   d       f16   scale of the scales
            2..  4   dmin    f16   scale of the mins
            4.. 16   scales        8 x (6-bit scale, 6-bit min), packed as in Q4_K
           16.. 48   qh            bit j of byte l is the fifth bit of weight 32 j + l
           48..176   qs            low four bits; byte 32 c + l holds weight 64 c + l (low) and 64 c + 32 + l (high)

    weight = d * scale * q - dmin * min

The panel and its multiplication are Q4_K's: q needs a byte there either way.

Source: ggml-common.h `block_q5_K`, ggml-quants.c `dequantize_row_q5_K`.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS32, Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.q4_k import (
    PANEL_BLOCK_BYTES,
    multiply_block,
    scale_and_min,
    scales_and_mins,
    unpack_scales,
)
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    concat,
    dot_i16,
    dot_u8i8,
    fma_scalar,
    hsums_to_f32,
    load_f16,
    load_f32,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16x8,
    mul,
    prefetch,
    shift_left,
    shift_right,
    sign_extend,
    splat_f32x16,
    spread,
    store,
    sub,
    to_f32,
    zero_extend,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import gather_columns, vector_of

BLOCK, BLOCK_BYTES = 256, 176
QH, QS = 16, 48


@inline
def _unpack_column(q, fifth, place):
    """Four weights of sixteen rows from each of two runs of 32: `fifth` has their fifth bits in bits 0 and 1 of every
    byte. Returns the bits of the next two runs."""
    store(place, bor(and_bits(q, 0x0F0F0F0F), shift_left(and_bits(fifth, 0x01010101), 4)))
    store(place + 512, bor(and_bits(shift_right(q, 4), 0x0F0F0F0F), shift_left(and_bits(fifth, 0x02020202), 3)))
    return shift_right(fifth, 2)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into Q4_K's panel."""
    for line in range(44):  # 16 * 176 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    head = gather_columns(block, row_bytes)
    unpack_scales(vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3), panel)
    for half in range(2):
        bits = gather_columns(block + QH + 16 * half, row_bytes)
        bits0, bits1, bits2, bits3 = vector_of(bits, 0), vector_of(bits, 1), vector_of(bits, 2), vector_of(bits, 3)
        for c in range(4):
            q = gather_columns(block + QS + 32 * c + 16 * half, row_bytes)
            place = panel + 1024 * c + 256 * half
            bits0 = _unpack_column(vector_of(q, 0), bits0, place)
            bits1 = _unpack_column(vector_of(q, 1), bits1, place + 64)
            bits2 = _unpack_column(vector_of(q, 2), bits2, place + 128)
            bits3 = _unpack_column(vector_of(q, 3), bits3, place + 192)


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    acc = np.float32(0)
    for i in range(n_cols // BLOCK):
        block, xi = row + i * BLOCK_BYTES, x + i * Q8K_BYTES
        prefetch(block + 4096)  # 2 KB ahead cost a quarter of the speed from memory on Zen 4, 4 KB nothing
        prefetch(block + 4160)
        prefetch(block + 4224)
        scales, mins = scales_and_mins(block)
        low, high, bits = load_i8x64(block + QS), load_i8x64(block + QS + 64), load_i8x32(block + QH)
        fifth = concat(bits, shift_right(bits, 2))  # bits 0, 1, 4, 5: sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7
        q02 = bor(and_bits(low, 15), shift_left(and_bits(fifth, 0x01), 4))
        q13 = bor(shift_right(low, 4), shift_left(and_bits(fifth, 0x02), 3))
        q46 = bor(and_bits(high, 15), and_bits(fifth, 0x10))
        q57 = bor(shift_right(high, 4), shift_right(and_bits(fifth, 0x20), 1))
        x02 = concat(load_i8x32(xi), load_i8x32(xi + 64))
        x13 = concat(load_i8x32(xi + 32), load_i8x32(xi + 96))
        x46 = concat(load_i8x32(xi + 128), load_i8x32(xi + 192))
        x57 = concat(load_i8x32(xi + 160), load_i8x32(xi + 224))
        # A sub-block's sums of four products, at most 4 * 31 * 127, fit 16 bits: so do their scales.
        s = dot_i16(zero_i32x16(), dot_u8i8(zero_i32x16(), q02, x02), spread(scales, "0000000022222222"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), q13, x13), spread(scales, "1111111133333333"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), q46, x46), spread(scales, "4444444466666666"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), q57, x57), spread(scales, "5555555577777777"))
        total, m = hsums_to_f32(s, mul(mins, sign_extend(load_i16x8(xi + Q8K_SUMS32))))
        dx = load_f32(xi + Q8K_SCALE)
        acc = fma_scalar(load_f16(block) * dx, total, acc)
        acc = fma_scalar(-load_f16(block + 2) * dx, m, acc)
    return acc


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * scale) * q - (dmin * min)."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, dmin = load_f16(block), load_f16(block + 2)
        for half in range(2):
            bits = zero_extend(load_i8x16(block + QH + 16 * half))
            for j in range(8):
                scale, low = scale_and_min(block, j)
                factor, offset = splat_f32x16(d * np.float32(scale)), splat_f32x16(dmin * np.float32(low))
                q = zero_extend(load_i8x16(block + QS + 32 * (j // 2) + 16 * half))
                q = shift_right(q, 4) if j % 2 else and_bits(q, 15)
                q = add(q, shift_left(and_bits(bits, 1), 4))
                bits = shift_right(bits, 1)
                store(out + 4 * (256 * i + 32 * j + 16 * half), sub(mul(factor, to_f32(q)), offset))


@kernel
def row_dot_q5_k(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES, Q8K_BYTES)


@op
def matmul_q5_k(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, unpack_block, multiply_block, row_dot)


@op
def embed_q5_k(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="Q5_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    matmul=matmul_q5_k,
    embed=embed_q5_k,
    dequantize=dequantize,
    row_dot=row_dot_q5_k,
    panel_block_bytes=PANEL_BLOCK_BYTES,
)
