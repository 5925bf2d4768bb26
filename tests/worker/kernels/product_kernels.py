"""Kernels that apply the verbs over tiles of rows by tokens, for the tests of the vocabulary."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import load_f32x16, store, store_i64
from woolly_worker.kernels.simd.products import (
    fma_products,
    fma_row,
    four_vectors,
    lanes_of,
    load_tokens,
    sums_of_sixteen,
    two_vectors,
    zero_products,
)
from woolly_worker.kernels.simd.sizes import PRODUCT_LANES
from woolly_worker.kernels.simd.tiles import load_each, store_each, tile_size, zeros_f32

PART_BYTES = 4 * PRODUCT_LANES
LAST = 16 // PRODUCT_LANES - 1
LAST_BYTES = LAST * PART_BYTES


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
    """The zeros of a tile of one token, and behind ROWS vectors of PRODUCT_LANES how many those are."""
    acc = zero_products(1)
    store_each(out, PART_BYTES, acc)
    store_i64(out + PART_BYTES * tile_size(acc), tile_size(acc))


@kernel
def first_part(tile, rows, x, stride, out):
    """Lanes 0 .. PRODUCT_LANES of ROWS rows by three tokens, the tokens loaded first."""
    acc = load_each(tile, 64, zero_products(3))
    tokens = load_tokens(x, stride, acc)
    acc = fma_row(acc, 0, lanes_of(load_f32x16(rows), 0), tokens)
    acc = fma_row(acc, 1, lanes_of(load_f32x16(rows + 64), 0), tokens)
    acc = fma_row(acc, 2, lanes_of(load_f32x16(rows + 128), 0), tokens)
    store_each(out, 64, fma_row(acc, 3, lanes_of(load_f32x16(rows + 192), 0), tokens))


@kernel
def last_part(tile, rows, x, stride, out):
    """The same of the last PRODUCT_LANES lanes."""
    acc = load_each(tile + LAST_BYTES, 64, zero_products(3))
    tokens = load_tokens(x + LAST_BYTES, stride, acc)
    acc = fma_row(acc, 0, lanes_of(load_f32x16(rows), LAST), tokens)
    acc = fma_row(acc, 1, lanes_of(load_f32x16(rows + 64), LAST), tokens)
    acc = fma_row(acc, 2, lanes_of(load_f32x16(rows + 128), LAST), tokens)
    store_each(out + LAST_BYTES, 64, fma_row(acc, 3, lanes_of(load_f32x16(rows + 192), LAST), tokens))


@kernel
def sixteen_sums(vectors, stride, out):
    store(out, sums_of_sixteen(vectors, stride))
