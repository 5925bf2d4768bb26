"""Q5_0: 32 weights in 22 bytes: d (f16), 32 high bits, then 16 bytes of low nibbles as in Q4_0.

    weight = d * (q - 16),   bit l of the high bits is bit 4 of weight l's q

Source: ggml-common.h `block_q5_0`, ggml-quants.c `dequantize_row_q5_0`.
"""

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES,
    PANEL_D,
    PARTS,
    multiply_block,
)
from woolly_worker.kernels.formats.sixteens import dot_in_sixteens
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    bytes_from_bits,
    concat,
    dot_u8i8,
    first_half,
    hsum,
    load_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i32,
    mul,
    prefetch,
    shift_left,
    shift_right,
    shift_sixteens,
    sixteen_bytes,
    sixteen_twice,
    splat_f32x16,
    splat_i32x16,
    store,
    sub,
    to_f32,
    zero_extend,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import (
    gather_columns,
    gather_first_halves_f32,
    gather_halves_f32,
    gather_i32,
    vector_of,
)

BLOCK_BYTES = 22


@inline
def high_bits(bits, first):
    """Bits first .. first + 4 of every lane as bit 4 of its four bytes: a product puts a copy of them at each byte.
    Shared with Q5_1."""
    four = and_bits(shift_right(bits, first), 15)
    return shift_left(and_bits(mul(four, splat_i32x16(np.int32(0x00204081))), 0x01010101), 4)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel: q - 16 + 128."""
    for line in range(6):  # 16 * 22 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 6, row_bytes)
    high = gather_i32(block + 2, row_bytes)
    store(
        panel, add(bor(and_bits(vector_of(q, 0), 0x0F0F0F0F), high_bits(high, 0)), splat_i32x16(np.int32(0x70707070)))
    )
    store(
        panel + 64,
        add(bor(and_bits(vector_of(q, 1), 0x0F0F0F0F), high_bits(high, 4)), splat_i32x16(np.int32(0x70707070))),
    )
    store(
        panel + 128,
        add(bor(and_bits(vector_of(q, 2), 0x0F0F0F0F), high_bits(high, 8)), splat_i32x16(np.int32(0x70707070))),
    )
    store(
        panel + 192,
        add(bor(and_bits(vector_of(q, 3), 0x0F0F0F0F), high_bits(high, 12)), splat_i32x16(np.int32(0x70707070))),
    )
    store(
        panel + 256,
        add(
            bor(and_bits(shift_right(vector_of(q, 0), 4), 0x0F0F0F0F), high_bits(high, 16)),
            splat_i32x16(np.int32(0x70707070)),
        ),
    )
    store(
        panel + 320,
        add(
            bor(and_bits(shift_right(vector_of(q, 1), 4), 0x0F0F0F0F), high_bits(high, 20)),
            splat_i32x16(np.int32(0x70707070)),
        ),
    )
    store(
        panel + 384,
        add(
            bor(and_bits(shift_right(vector_of(q, 2), 4), 0x0F0F0F0F), high_bits(high, 24)),
            splat_i32x16(np.int32(0x70707070)),
        ),
    )
    store(
        panel + 448,
        add(
            bor(and_bits(shift_right(vector_of(q, 3), 4), 0x0F0F0F0F), high_bits(high, 28)),
            splat_i32x16(np.int32(0x70707070)),
        ),
    )
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))


@inline
def _pair(block, x):
    packed = concat(load_i8x16(block + 6), load_i8x16(block + 28))
    high = bytes_from_bits(load_i32(block + 2), load_i32(block + 24), 16)
    q = bor(and_bits(shift_sixteens(sixteen_twice(packed), 0, 4), 15), high)
    return dot_u8i8(zero_i32x16(), q, load_i8x64(x))


@inline
def _single(block, x):
    packed = load_i8x16(block + 6)
    q = concat(and_bits(packed, 15), shift_right(packed, 4))
    q = bor(q, first_half(bytes_from_bits(load_i32(block + 2), np.int32(0), 16)))
    return hsum(dot_u8i8(zero_i32x8(), q, load_i8x32(x)))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    return dot_in_sixteens(row, x, n_cols, BLOCK_BYTES, 16, _pair, _single, _scales)


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: (q - 16) * d."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        high = bytes_from_bits(load_i32(block + 2), np.int32(0), 16)
        packed = load_i8x16(block + 6)
        store(
            out + 128 * i,
            mul(
                to_f32(sub(zero_extend(bor(and_bits(packed, 15), sixteen_bytes(high, 0))), splat_i32x16(np.int32(16)))),
                d,
            ),
        )
        store(
            out + 128 * i + 64,
            mul(
                to_f32(
                    sub(zero_extend(bor(shift_right(packed, 4), sixteen_bytes(high, 16))), splat_i32x16(np.int32(16)))
                ),
                d,
            ),
        )


@kernel
def row_dot_q5_0(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES)


@op
def matmul_q5_0(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, PARTS, unpack_block, multiply_block, row_dot)


@op
def embed_q5_0(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="Q5_0",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    matmul=matmul_q5_0,
    embed=embed_q5_0,
    dequantize=dequantize,
    row_dot=row_dot_q5_0,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
)
