"""Q4_K: 256 weights in 144 bytes, eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.

    bytes   0.. 2   d      f16   scale of the scales
            2.. 4   dmin   f16   scale of the mins
            4..16   scales       8 x (6-bit scale, 6-bit min), packed as ggml does
           16..144  qs           4-bit values; byte 32 c + l holds weight 64 c + l (low) and 64 c + 32 + l (high)

    weight = d * scale * q - dmin * min

Source: ggml-common.h `block_q4_K`, ggml-quants.c `dequantize_row_q4_K`.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE, Q8K_SUMS32, Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    and_bits,
    bor,
    concat,
    dot_i16,
    dot_u8i8,
    fma_scalar,
    high_halves_f32,
    hsums_to_f32,
    load_f16,
    load_f32,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16x8,
    load_i32,
    load_i32x16,
    load_u8,
    low_halves_f32,
    mul,
    negate,
    prefetch,
    shift_left,
    shift_right,
    sign_extend,
    splat_f32x16,
    spread,
    store,
    sub,
    to_f32,
    widen_bytes,
    zero_extend,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import (
    accumulate_each,
    add_product_each,
    dot_groups,
    dot_pairs,
    gather_columns,
    vector_of,
    zeros_i32_like,
)

BLOCK, BLOCK_BYTES = 256, 144

# The panel of sixteen rows, one quant block after the other.
PANEL_SCALES = 4096  # i32 x 16 rows, for each of 8 sub-blocks
PANEL_MINS = PANEL_SCALES + 8 * 64  # pairs of i16 for sub-blocks (0, 1), (2, 3), ... x 16 rows
PANEL_D = PANEL_MINS + 4 * 64  # f32 x 16 rows
PANEL_DMIN = PANEL_D + 64
PANEL_BLOCK_BYTES = PANEL_DMIN + 64


@inline
def unpack_scales(d_and_dmin, s0, s1, s2, panel):
    """The twelve packed bytes of sixteen rows: s0, s1, s2 hold bytes 0..4, 4..8 and 8..12. Shared with Q5_K."""
    store(panel + PANEL_D, low_halves_f32(d_and_dmin))
    store(panel + PANEL_DMIN, high_halves_f32(d_and_dmin))
    # Scales and mins 0..3 are the low six bits of s0 and s1; those of 4..7 are four bits of s2 and two high bits.
    # Shifts by 8 j pick byte j; they are written out because a verb's literal must be one.
    store(panel + PANEL_SCALES, and_bits(s0, 63))
    store(panel + PANEL_SCALES + 64, and_bits(shift_right(s0, 8), 63))
    store(panel + PANEL_SCALES + 128, and_bits(shift_right(s0, 16), 63))
    store(panel + PANEL_SCALES + 192, and_bits(shift_right(s0, 24), 63))
    high_scales = bor(and_bits(s2, 0x0F0F0F0F), shift_left(and_bits(shift_right(s0, 6), 0x03030303), 4))
    high_mins = bor(and_bits(shift_right(s2, 4), 0x0F0F0F0F), shift_left(and_bits(shift_right(s1, 6), 0x03030303), 4))
    store(panel + PANEL_SCALES + 256, and_bits(high_scales, 63))
    store(panel + PANEL_SCALES + 320, and_bits(shift_right(high_scales, 8), 63))
    store(panel + PANEL_SCALES + 384, and_bits(shift_right(high_scales, 16), 63))
    store(panel + PANEL_SCALES + 448, and_bits(shift_right(high_scales, 24), 63))
    low_mins = and_bits(s1, 0x3F3F3F3F)
    store_pairs(panel + PANEL_MINS, low_mins)
    store_pairs(panel + PANEL_MINS + 128, high_mins)


@inline
def store_pairs(place, mins):
    """Four bytes a lane as two vectors of 16-bit pairs: (byte 0, byte 1) and (byte 2, byte 3). Shared with Q2_K."""
    store(place, bor(and_bits(mins, 63), shift_left(and_bits(mins, 0x3F00), 8)))
    store(place + 64, bor(and_bits(shift_right(mins, 16), 63), shift_right(and_bits(mins, 0x3F000000), 8)))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel: values as [64 groups][16 rows][4 columns] u8, then scales, mins, d, dmin.

    Rows are sixteen separate streams, which no hardware prefetcher follows. The next sixteen rows are one linear
    piece: an equal share of it is asked for with every block, a few lines at a time.
    """
    for line in range(4):
        prefetch(ahead + 64 * line)
    head = gather_columns(block, row_bytes)
    unpack_scales(vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3), panel)
    for c in range(4):
        values = panel + 1024 * c
        for half in range(2):
            for line in range(4):
                prefetch(ahead + 256 + 512 * c + 256 * half + 64 * line)
            q = gather_columns(block + 16 + 32 * c + 16 * half, row_bytes)
            o = values + 256 * half
            store(o, and_bits(vector_of(q, 0), 0x0F0F0F0F))
            store(o + 64, and_bits(vector_of(q, 1), 0x0F0F0F0F))
            store(o + 128, and_bits(vector_of(q, 2), 0x0F0F0F0F))
            store(o + 192, and_bits(vector_of(q, 3), 0x0F0F0F0F))
            store(o + 512, and_bits(shift_right(vector_of(q, 0), 4), 0x0F0F0F0F))
            store(o + 576, and_bits(shift_right(vector_of(q, 1), 4), 0x0F0F0F0F))
            store(o + 640, and_bits(shift_right(vector_of(q, 2), 4), 0x0F0F0F0F))
            store(o + 704, and_bits(shift_right(vector_of(q, 3), 4), 0x0F0F0F0F))


@inline
def multiply_block(panel, x, x_stride, acc):
    """acc[t] += panel . x[t]. Integers: 256 * 15 * 127 * 63 < 2**31. Shared with Q5_K (31 for 15: still below)."""
    total = zeros_i32_like(acc)
    for j in range(8):
        s = dot_groups(zeros_i32_like(acc), panel + 512 * j, x + 32 * j, x_stride, 8)
        total = add_product_each(total, s, load_i32x16(panel + PANEL_SCALES + 64 * j))
    mins = dot_pairs(zeros_i32_like(acc), panel + PANEL_MINS, x + Q8K_SUMS32, x_stride, 4)
    acc = accumulate_each(acc, load_f32x16(panel + PANEL_D), x + Q8K_SCALE, x_stride, total)
    return accumulate_each(acc, negate(load_f32x16(panel + PANEL_DMIN)), x + Q8K_SCALE, x_stride, mins)


@inline
def scales_and_mins(block):
    """The eight scales and the eight mins of one block as i32x8 vectors. Shared with Q5_K."""
    s0, s1, s2 = load_i32(block + 4), load_i32(block + 8), load_i32(block + 12)
    scales = widen_bytes(s0 & 0x3F3F3F3F, (s2 & 0x0F0F0F0F) | (((s0 >> 6) & 0x03030303) << 4))
    mins = widen_bytes(s1 & 0x3F3F3F3F, ((s2 >> 4) & 0x0F0F0F0F) | (((s1 >> 6) & 0x03030303) << 4))
    return scales, mins


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    acc = np.float32(0)
    for i in range(n_cols // BLOCK):
        block, xi = row + i * BLOCK_BYTES, x + i * Q8K_BYTES
        prefetch(block + 2048)
        prefetch(block + 2112)
        prefetch(block + 2176)
        scales, mins = scales_and_mins(block)
        low, high = load_i8x64(block + 16), load_i8x64(block + 80)
        # A load of 64 bytes spans two runs of 32, so its low nibbles are sub-blocks 0 and 2, its high ones 1 and 3.
        x02 = concat(load_i8x32(xi), load_i8x32(xi + 64))
        x13 = concat(load_i8x32(xi + 32), load_i8x32(xi + 96))
        x46 = concat(load_i8x32(xi + 128), load_i8x32(xi + 192))
        x57 = concat(load_i8x32(xi + 160), load_i8x32(xi + 224))
        # A sub-block's sums of four products, at most 4 * 15 * 127, fit 16 bits: so do their scales.
        s = dot_i16(zero_i32x16(), dot_u8i8(zero_i32x16(), and_bits(low, 15), x02), spread(scales, "0000000022222222"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), shift_right(low, 4), x13), spread(scales, "1111111133333333"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), and_bits(high, 15), x46), spread(scales, "4444444466666666"))
        s = dot_i16(s, dot_u8i8(zero_i32x16(), shift_right(high, 4), x57), spread(scales, "5555555577777777"))
        total, m = hsums_to_f32(s, mul(mins, sign_extend(load_i16x8(xi + Q8K_SUMS32))))
        dx = load_f32(xi + Q8K_SCALE)
        acc = fma_scalar(load_f16(block) * dx, total, acc)
        acc = fma_scalar(-load_f16(block + 2) * dx, m, acc)
    return acc


@inline
def scale_and_min(block, j):
    """Sub-block j's scale and min, as ggml's `get_scale_min_k4` reads them. Shared with Q5_K."""
    if j < 4:
        return load_u8(block + 4 + j) & 63, load_u8(block + 8 + j) & 63
    scale = (load_u8(block + 8 + j) & 15) | ((load_u8(block + j) >> 6) << 4)
    low = (load_u8(block + 8 + j) >> 4) | ((load_u8(block + 4 + j) >> 6) << 4)
    return scale, low


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * scale) * q - (dmin * min)."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d, dmin = load_f16(block), load_f16(block + 2)
        for j in range(8):
            scale, low = scale_and_min(block, j)
            factor, offset = splat_f32x16(d * np.float32(scale)), splat_f32x16(dmin * np.float32(low))
            for half in range(2):
                q = zero_extend(load_i8x16(block + 16 + 32 * (j // 2) + 16 * half))
                q = and_bits(shift_right(q, 4), 15) if j % 2 else and_bits(q, 15)
                store(out + 4 * (256 * i + 32 * j + 16 * half), sub(mul(factor, to_f32(q)), offset))


@kernel
def row_dot_q4_k(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES, Q8K_BYTES)


@op
def matmul_q4_k(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, unpack_block, multiply_block, row_dot)


@op
def embed_q4_k(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="Q4_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    matmul=matmul_q4_k,
    embed=embed_q4_k,
    dequantize=dequantize,
    row_dot=row_dot_q4_k,
    panel_block_bytes=PANEL_BLOCK_BYTES,
)
