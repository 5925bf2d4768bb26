"""F32, F16 and BF16: plain numbers. Activations stay f32; every product and sum is f32.

A row times a token is sixteen lanes of partial sums over the columns, folded at the end; rows need not be a multiple
of sixteen long. Tiles share a row's load among tokens, which changes nothing for any one of them.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
    N_COLS,
    N_ROWS,
    OUT,
    OUT_STRIDE,
    ROW_BYTES,
    WEIGHTS,
    X_STRIDE,
    X,
    run_embedding,
    take_rows,
)
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
from woolly_worker.kernels.simd.tiles import fma_load_each, store_sums_each, zeros_f32
from woolly_worker.kernels.step import field


@inline
def _row_times_tile(row, x, x_stride, n_cols, size, load, load_first, acc):
    whole = n_cols - n_cols % 16
    for k in range(0, whole, 16):
        acc = fma_load_each(acc, load(row + size * k), x + 4 * k, x_stride)
    if whole < n_cols:  # the activations' rows are padded with zeros; the weights' are not
        acc = fma_load_each(acc, load_first(row + size * whole, n_cols - whole), x + 4 * whole, x_stride)
    return acc


@inline
def run_float_matmul(args, step, counter, size, load, load_first):
    """The body of a float matmul operation; `size` is the bytes of a weight, `load` reads sixteen as f32."""
    n_tokens = field(step, field(args, COUNT_FIELD))
    n_rows, n_cols = field(args, N_ROWS), field(args, N_COLS)
    w, row_bytes = field(args, WEIGHTS), field(args, ROW_BYTES)
    x, x_stride = field(args, X), field(args, X_STRIDE)
    out, out_stride, adding = field(args, OUT), field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
    while True:
        first, last = take_rows(args, counter)
        if first >= n_rows:
            return
        for r in range(first, last):
            row, place = w + r * row_bytes, out + 4 * r
            t = 0
            while t + 8 <= n_tokens:
                acc = _row_times_tile(row, x + t * x_stride, x_stride, n_cols, size, load, load_first, zeros_f32(8))
                store_sums_each(place + t * out_stride, out_stride, acc, adding)
                t += 8
            while t < n_tokens:
                one = _row_times_tile(row, x + t * x_stride, x_stride, n_cols, size, load, load_first, zeros_f32(1))
                store_sums_each(place + t * out_stride, out_stride, one, adding)
                t += 1


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
    run_float_matmul(args, step, counter, 4, _load_f32, _load_first_f32)


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
    run_float_matmul(args, step, counter, 2, _load_f16, _load_first_f16)


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
    run_float_matmul(args, step, counter, 2, _load_bf16, _load_first_bf16)


@op
def embed_bf16(args, step, member, counter):
    run_embedding(args, step, counter, dequantize_bf16)


F32 = Format("F32", 1, 4, Activation.F32, matmul_f32, embed_f32, dequantize_f32, row_dot_f32)
F16 = Format("F16", 1, 2, Activation.F32, matmul_f16, embed_f16, dequantize_f16, row_dot_f16)
BF16 = Format("BF16", 1, 2, Activation.F32, matmul_bf16, embed_bf16, dequantize_bf16, row_dot_bf16)
