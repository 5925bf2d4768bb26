"""IQ4_NL: 32 weights in 18 bytes: d (f16), then 16 bytes of indices into a table of sixteen values, as in Q4_0.

    weight = d * VALUES[q]

Source: ggml-common.h `block_iq4_nl`, `kvalues_iq4nl`, ggml-quants.c `dequantize_row_iq4_nl`.
"""

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.legacy import BLOCK, PANEL_BLOCK_BYTES, PANEL_D, PARTS, multiply_block
from woolly_worker.kernels.formats.sixteens import dot_in_sixteens
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding, run_matmul
from woolly_worker.kernels.simd import (
    and_bits,
    byte_table,
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
    splat_i32x16,
    store,
    sub,
    to_f32,
    zero_extend,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.tiles import gather_columns, gather_first_halves_f32, gather_halves_f32, vector_of

BLOCK_BYTES = 18


def _raised_values():
    from gguf.quants import IQ4_NL  # slow to import, and needed by the compiler only

    return [value + 128 for value in IQ4_NL.kvalues]


raised_value = byte_table(_raised_values)


@inline
def _unpack_column(q, place):
    """Four weights of sixteen rows from each half of the block."""
    store(place, raised_value(and_bits(q, 0x0F0F0F0F)))
    store(place + 256, raised_value(and_bits(shift_right(q, 4), 0x0F0F0F0F)))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel: value + 128."""
    for line in range(5):  # the next sixteen rows' share, see q4_k
        prefetch(ahead + 64 * line)
    q = gather_columns(block + 2, row_bytes)
    _unpack_column(vector_of(q, 0), panel)
    _unpack_column(vector_of(q, 1), panel + 64)
    _unpack_column(vector_of(q, 2), panel + 128)
    _unpack_column(vector_of(q, 3), panel + 192)
    store(panel + PANEL_D, gather_halves_f32(block, row_bytes))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def _scale(block):
    return load_f16(block)


@inline
def _pair(block, x):
    packed = concat(load_i8x16(block + 2), load_i8x16(block + 20))
    w = raised_value(and_bits(shift_sixteens(sixteen_twice(packed), 0, 4), 15))
    return dot_u8i8(zero_i32x16(), w, load_i8x64(x))


@inline
def _single(block, x):
    packed = load_i8x16(block + 2)
    w = raised_value(concat(and_bits(packed, 15), shift_right(packed, 4)))
    return hsum(dot_u8i8(zero_i32x8(), w, load_i8x32(x)))


@inline
def row_dot(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place."""
    return dot_in_sixteens(row, x, n_cols, BLOCK_BYTES, 128, _pair, _single, _scales)


@kernel
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: d * value."""
    raised = splat_i32x16(np.int32(128))
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(_scale(block))
        packed = load_i8x16(block + 2)
        store(out + 128 * i, mul(d, to_f32(sub(zero_extend(raised_value(and_bits(packed, 15))), raised))))
        store(out + 128 * i + 64, mul(d, to_f32(sub(zero_extend(raised_value(shift_right(packed, 4))), raised))))


@kernel
def row_dot_iq4_nl(row, x, n_cols):
    return row_dot(row, x, n_cols)


SIZES = (BLOCK_BYTES, PANEL_BLOCK_BYTES)


@op
def matmul_iq4_nl(args, step, member, counter):
    run_matmul(args, step, member, counter, BLOCK, SIZES, PARTS, unpack_block, multiply_block, row_dot)


@op
def embed_iq4_nl(args, step, member, counter):
    run_embedding(args, step, counter, dequantize)


FORMAT = Format(
    name="IQ4_NL",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    matmul=matmul_iq4_nl,
    embed=embed_iq4_nl,
    dequantize=dequantize,
    row_dot=row_dot_iq4_nl,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
)
