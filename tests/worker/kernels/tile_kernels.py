"""Kernels that apply the verbs over register tiles, a tile of three vectors, for the tests of the vocabulary."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import dot_groups, load_f32x16, load_i32x16, store, store_i64
from woolly_worker.kernels.simd.gathers import gather_columns, gather_i32
from woolly_worker.kernels.simd.sizes import IN_SHORTS
from woolly_worker.kernels.simd.tiles import (
    accumulate_each,
    add_each,
    add_product_each,
    dot_pairs,
    dot_shorts_each,
    fma_splat_each,
    load_each,
    store_each,
    sub_scaled_each,
    sub_shifted_each,
    sub_splat_each,
    tile_size,
    vector_of,
    zeros_f32,
    zeros_f32_like,
    zeros_i32,
    zeros_i32_like,
)

LARGEST = 128 if IN_SHORTS else 255  # of unsigned bytes, see simd/bytes.py


@kernel
def integer_dots(panel, x, stride, out):
    """Two pairs of 16-bit integers, then one vector of them: each 3 x 64 bytes."""
    store_each(out, 64, dot_pairs(zeros_i32(3), panel, x, stride, 2))
    store_each(out + 192, 64, dot_shorts_each(zeros_i32(3), load_i32x16(panel), x, stride))


@kernel
def integer_tiles(panel, x, stride, vector, out):
    """acc = dot_groups(...), then every integer verb that takes it further: each 3 x 64 bytes."""
    acc = dot_groups(zeros_i32(3), panel, x, stride, 1, LARGEST)
    store_each(out, 64, acc)
    store_each(out + 192, 64, add_product_each(acc, acc, load_i32x16(vector)))
    store_each(out + 384, 64, sub_scaled_each(acc, acc, 3))
    store_each(out + 576, 64, sub_splat_each(acc, x, stride, 5))
    store_each(out + 768, 64, sub_shifted_each(acc, x, stride, 3))
    store_each(out + 960, 64, add_each(acc, zeros_i32_like(acc)))
    store(out + 1152, vector_of(acc, 2))
    store_i64(out + 1216, tile_size(acc))


@kernel
def float_tiles(tile, panel, vector, x, stride, out):
    """tile: 3 x 16 f32, 64 bytes apart; panel and x as for dot_groups, with x read as floats too."""
    acc = load_each(tile, 64, zeros_f32(3))
    v = load_f32x16(vector)
    store_each(out, 64, fma_splat_each(acc, v, x, stride))
    store_each(out + 192, 64, add_each(acc, acc))
    store_each(out + 384, 64, zeros_f32_like(acc))
    sums = dot_groups(zeros_i32(3), panel, x, stride, 1, LARGEST)
    store_each(out + 576, 64, accumulate_each(acc, v, x, stride, sums))


@kernel
def gathered(rows, stride, out):
    """4 x 64 bytes of columns, then four bytes of each row."""
    store_each(out, 64, gather_columns(rows, stride))
    store(out + 256, gather_i32(rows, stride))
