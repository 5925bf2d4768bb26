"""F32, F16 and BF16: plain numbers. Activations stay f32; every product and sum is f32.

A row times a token is sixteen lanes of partial sums over the columns, folded at the end; rows need not be a multiple
of sixteen long. Tiles share a row's load among tokens, which changes nothing for any one of them.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.float_loops import SUMS_BYTES, run_float_matmul
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import run_embedding
from woolly_worker.kernels.simd import (
    as_f16x16,
    as_f32x16,
    fma,
    hsum,
    load_f16x16,
    load_f32x16,
    load_first_f32x16,
    load_first_i16x16,
    load_i16x16,
    shift_left,
    store,
    store_first,
    to_f32,
    zero_extend,
    zero_f32x16,
)


@inline
def _row_dot(row, x, n_cols, size, load, load_first):
    acc = zero_f32x16()
    whole = n_cols - n_cols % 16
    for k in range(0, whole, 16):
        acc = fma(load(row + size * k), load_f32x16(x + 4 * k), acc)
    if whole < n_cols:
        acc = fma(load_first(row + size * whole, n_cols - whole), load_f32x16(x + 4 * whole), acc)
    return hsum(acc)


@inline
def _to_f32(row, n_cols, out, size, load, load_first):
    whole = n_cols - n_cols % 16
    for k in range(0, whole, 16):
        store(out + 4 * k, load(row + size * k))
    if whole < n_cols:
        store_first(out + 4 * whole, load_first(row + size * whole, n_cols - whole), n_cols - whole)


@inline
def _load_f32(address):
    return load_f32x16(address)


@inline
def _load_first_f32(address, n):
    return load_first_f32x16(address, n)


@inline
def _load_f16(address):
    return to_f32(load_f16x16(address))


@inline
def _load_first_f16(address, n):
    return to_f32(as_f16x16(load_first_i16x16(address, n)))


@inline
def _load_bf16(address):
    return as_f32x16(shift_left(zero_extend(load_i16x16(address)), 16))


@inline
def _load_first_bf16(address, n):
    return as_f32x16(shift_left(zero_extend(load_first_i16x16(address, n)), 16))


@kernel
def dequantize_f32(row, n_cols, out):
    _to_f32(row, n_cols, out, 4, _load_f32, _load_first_f32)


@kernel
def row_dot_f32(row, x, n_cols):
    return _row_dot(row, x, n_cols, 4, _load_f32, _load_first_f32)


@op
def matmul_f32(args, step, member, counter):
    run_float_matmul(args, step, member, counter, 4, _load_f32, _load_first_f32, row_dot_f32)


@op
def embed_f32(args, step, member, counter):
    run_embedding(args, step, counter, dequantize_f32)


@kernel
def dequantize_f16(row, n_cols, out):
    _to_f32(row, n_cols, out, 2, _load_f16, _load_first_f16)


@kernel
def row_dot_f16(row, x, n_cols):
    return _row_dot(row, x, n_cols, 2, _load_f16, _load_first_f16)


@op
def matmul_f16(args, step, member, counter):
    run_float_matmul(args, step, member, counter, 2, _load_f16, _load_first_f16, row_dot_f16)


@op
def embed_f16(args, step, member, counter):
    run_embedding(args, step, counter, dequantize_f16)


@kernel
def dequantize_bf16(row, n_cols, out):
    _to_f32(row, n_cols, out, 2, _load_bf16, _load_first_bf16)


@kernel
def row_dot_bf16(row, x, n_cols):
    return _row_dot(row, x, n_cols, 2, _load_bf16, _load_first_bf16)


@op
def matmul_bf16(args, step, member, counter):
    run_float_matmul(args, step, member, counter, 2, _load_bf16, _load_first_bf16, row_dot_bf16)


@op
def embed_bf16(args, step, member, counter):
    run_embedding(args, step, counter, dequantize_bf16)


F32 = Format("F32", 1, 4, Activation.F32, matmul_f32, embed_f32, dequantize_f32, row_dot_f32, tile_bytes=SUMS_BYTES)
F16 = Format("F16", 1, 2, Activation.F32, matmul_f16, embed_f16, dequantize_f16, row_dot_f16, tile_bytes=SUMS_BYTES)
BF16 = Format(
    "BF16", 1, 2, Activation.F32, matmul_bf16, embed_bf16, dequantize_bf16, row_dot_bf16, tile_bytes=SUMS_BYTES
)
