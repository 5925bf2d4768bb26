"""Kernels around the verbs of the matrix unit, for their tests. Arguments are addresses."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import load_i8x16, load_i8x64, store
from woolly_worker.kernels.simd.conversion import as_i16x32
from woolly_worker.kernels.simd.matrix_unit import (
    four_bytes_in_quarters,
    interleave_bytes,
    matrix_begin,
    matrix_dot_i8i8,
    matrix_dot_u8i8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
    pair_products,
    two_bytes_in_halves,
)


@kernel
def products_twice(a, a_stride, b, unsigned_out, signed_out):
    """a . b added to itself once, of unsigned and of signed bytes in a."""
    matrix_begin()
    matrix_zero(0)
    matrix_zero(7)
    matrix_load(3, a, a_stride)
    matrix_load(4, b, 64)
    for _ in range(2):
        matrix_dot_u8i8(0, 3, 4)
        matrix_dot_i8i8(7, 3, 4)
    matrix_store(0, unsigned_out, 64)
    matrix_store(7, signed_out, 64)
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
def bytes_in_lanes(x, out):
    store(out, two_bytes_in_halves(load_i8x16(x), 0))
    store(out + 64, two_bytes_in_halves(load_i8x16(x), 13))
    store(out + 128, four_bytes_in_quarters(load_i8x16(x), 0))
    store(out + 192, four_bytes_in_quarters(load_i8x16(x), 12))
