"""F32, F16 and BF16: plain numbers. Activations stay f32; every product and sum is f32.

A row times a token is sixteen lanes of partial sums over the columns, folded at the end; rows need not be a multiple
of sixteen long. Tiles share a row's load among tokens, which changes nothing for any one of them.
"""

from typing import Any

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.float_loops import SUMS_BYTES, run_float_matmul
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.operations import dot_for_python, embedding, numbers_for_python, operation
from woolly_worker.kernels.jit import inline
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
        ask_ahead(row + size * k)
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


def _float_format(name: str, size: int, load: Any, load_first: Any) -> Format:
    """`size` bytes a weight; load(address) reads sixteen as f32, load_first(address, n) the first n, and zeros."""

    @inline
    def row_dot(row, x, n_cols):
        return _row_dot(row, x, n_cols, size, load, load_first)

    @inline
    def dequantize(row, n_cols, out):
        _to_f32(row, n_cols, out, size, load, load_first)

    def matmul(args, step, member, counter):
        run_float_matmul(args, step, member, counter, size, load, load_first, row_dot)

    return Format(
        name=name,
        block=1,
        block_bytes=size,
        activation=Activation.F32,
        matmul=operation(matmul, name),
        embed=embedding(dequantize, name),
        dequantize=numbers_for_python(dequantize, name),
        row_dot=dot_for_python(row_dot, name),
        tile_bytes=SUMS_BYTES,
    )


F32 = _float_format("F32", 4, _load_f32, _load_first_f32)
F16 = _float_format("F16", 2, _load_f16, _load_first_f16)
BF16 = _float_format("BF16", 2, _load_bf16, _load_first_bf16)
