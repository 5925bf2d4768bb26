"""Kernels around the verbs of the matrix unit, for their tests. Arguments are addresses."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import load_i8x64, load_i32x16, store
from woolly_worker.kernels.simd.conversion import as_i16x32
from woolly_worker.kernels.simd.matrix_unit import (
    bytes_as_halves,
    interleave_bytes,
    matrix_begin,
    matrix_dot_i8i8,
    matrix_dot_i8u8,
    matrix_dot_u8i8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
    pair_products,
)


@kernel
def products_twice(a, a_stride, b, n_rows, out):
    """a . b added to itself once: of unsigned and signed bytes, signed and unsigned, signed and signed with sixteen
    rows, and the last with n_rows."""
    matrix_begin(n_rows)
    matrix_zero(0)
    matrix_zero(1)
    matrix_zero(4)
    matrix_zero(3)
    matrix_load(5, a, a_stride)
    matrix_load(7, a, a_stride)
    matrix_load(6, b, 64)
    for _ in range(2):
        matrix_dot_u8i8(0, 5, 6)
        matrix_dot_i8u8(1, 5, 6)
        matrix_dot_i8i8(4, 5, 6)
        matrix_dot_i8i8(3, 7, 6)
    matrix_store(0, out, 64)
    matrix_store(1, out + 1024, 64)
    matrix_store(4, out + 2048, 64)
    matrix_store(3, out + 3072, 64)
    matrix_end()


@kernel
def products_of_pairs(u, s, out):
    store(out, pair_products(load_i8x64(u), load_i8x64(s)))


@kernel
def bytes_interleaved(x, y, out):
    even, odd = as_i16x32(load_i8x64(x)), as_i16x32(load_i8x64(y))
    store(out, interleave_bytes(even, odd, 0))
    store(out + 64, interleave_bytes(even, odd, 1))


@kernel
def bytes_in_halves(x, out):
    x = load_i32x16(x)
    store(out, bytes_as_halves(x, 0, 1))
    store(out + 64, bytes_as_halves(x, 3, 3))
