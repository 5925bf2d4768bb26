"""Kernels that apply the verbs over tiles of rows by tokens, for the tests of the vocabulary."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import load_f32x16, store, store_i64
from woolly_worker.kernels.simd.products import (
    fma_products,
    four_vectors,
    sums_of_sixteen,
    two_vectors,
    zero_products,
)
from woolly_worker.kernels.simd.tiles import load_each, store_each, tile_size, zeros_f32


@kernel
def two_rows(tile, rows, x, stride, out):
    """Two rows by three tokens; tile and out are 6 x 16 f32, rows 2 x 16."""
    acc = load_each(tile, 64, zeros_f32(6))
    vectors = two_vectors(load_f32x16(rows), load_f32x16(rows + 64))
    store_each(out, 64, fma_products(acc, vectors, x, stride))


@kernel
def four_rows(tile, rows, x, stride, out):
    """Four rows by three tokens; tile and out are 12 x 16 f32, rows 4 x 16."""
    acc = load_each(tile, 64, zeros_f32(12))
    vectors = four_vectors(load_f32x16(rows), load_f32x16(rows + 64), load_f32x16(rows + 128), load_f32x16(rows + 192))
    store_each(out, 64, fma_products(acc, vectors, x, stride))


@kernel
def empty_tile(out):
    """The zeros of a tile of one token, and behind ROWS vectors how many those are."""
    acc = zero_products(1)
    store_each(out, 64, acc)
    store_i64(out + 64 * tile_size(acc), tile_size(acc))


@kernel
def sixteen_sums(vectors, stride, out):
    store(out, sums_of_sixteen(vectors, stride))
