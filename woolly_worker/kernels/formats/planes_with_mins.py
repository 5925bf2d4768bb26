"""Q4_K and Q5_K on the matrix unit: their planes, and the float steps with a min for each sub-block.

A scale is below 64 and a weight below 32. With the scale in two parts, scale = 8 * high + low, both products of a
weight fit a byte, and a multiplication of 16-bit lanes makes two of them without a bit that crosses over:

    sum of weight * scale * x  =  8 * (sum of weight * high * x)  +  sum of weight * low * x
"""

from woolly_worker.kernels.activations import Q8K_SCALE, Q8K_SUMS32
from woolly_worker.kernels.formats.k_scales import high_scales, low_scales
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit import FACTORS, LOWER, UPPER
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    as_i16x32,
    bor,
    dot_i16,
    fma,
    load_f32,
    load_f32x16,
    load_i8x16,
    load_i32,
    load_i32x16,
    load_quarters,
    mins_of_quarters,
    mul,
    negate,
    prefetch,
    shift_left,
    shift_right,
    splat_f32x16,
    splat_i32x16,
    spread,
    store,
    to_f32,
    zero_i32x16,
)
from woolly_worker.kernels.simd.gathers import gather_halves_f32
from woolly_worker.kernels.simd.matrix_unit import two_bytes_in_halves

# Behind the planes, for sixteen rows:
_D, _DMIN = FACTORS, FACTORS + 64  # f32; dmin is negated
_MINS = FACTORS + 128  # eight i16 a row
_LOW, _HIGH = FACTORS + 384, FACTORS + 640  # sixteen bytes a row, of which the first eight are the scales' parts


@inline
def _store_products(q, low, high, place):
    """64 weights times the parts of their scales, which have a 16-bit lane for every two weights."""
    store(place + LOWER, mul(as_i16x32(q), low))
    store(place + UPPER, mul(as_i16x32(q), high))


@inline
def store_products(q01, q23, q45, q67, low, high, place):
    """A row's 256 weights times the two parts of its scales, i8x16."""
    _store_products(q01, two_bytes_in_halves(low, 0), two_bytes_in_halves(high, 0), place)
    _store_products(q23, two_bytes_in_halves(low, 2), two_bytes_in_halves(high, 2), place + 64)
    _store_products(q45, two_bytes_in_halves(low, 4), two_bytes_in_halves(high, 4), place + 128)
    _store_products(q67, two_bytes_in_halves(low, 6), two_bytes_in_halves(high, 6), place + 192)


@inline
def _unpack_scales(block, row_bytes, planes):
    for r in range(0, 16, 4):
        b = block + r * row_bytes
        heads = load_quarters(b, b + row_bytes, b + 2 * row_bytes, b + 3 * row_bytes)
        first, last = low_scales(heads), high_scales(heads)
        store(planes + _MINS + 16 * r, mins_of_quarters(first, last))
        scales = bor(spread(first, "100054449888dccc"), spread(last, "010045448988cdcc"))
        store(planes + _LOW + 16 * r, and_bits(scales, 0x07070707))
        store(planes + _HIGH + 16 * r, and_bits(shift_right(scales, 3), 0x07070707))


@inline
def unpack_planes_with_mins(block, row_bytes, ahead, block_bytes, planes, planes_of_row):
    """planes_of_row(block, low, high, place) unpacks one row; `low` and `high` are the parts of its scales, i8x16."""
    _unpack_scales(block, row_bytes, planes)
    for r in range(16):
        low, high = load_i8x16(planes + _LOW + 16 * r), load_i8x16(planes + _HIGH + 16 * r)
        for line in range(3):
            prefetch(ahead + block_bytes * r + 64 * line)
        planes_of_row(block + r * row_bytes, low, high, planes + 256 * r)
    store(planes + _D, gather_halves_f32(block, row_bytes))
    store(planes + _DMIN, negate(gather_halves_f32(block + 2, row_bytes)))


@inline
def of_tokens(record):
    """Scales, and the sums of runs of 32 in pairs."""
    sums = record + 16 * Q8K_SUMS32
    pairs = load_i32x16(sums), load_i32x16(sums + 64), load_i32x16(sums + 128), load_i32x16(sums + 192)
    return load_f32x16(record + 16 * Q8K_SCALE), pairs


@inline
def add_row(planes, r, tokens, lower, upper, acc):
    """`_add_to_floats` of q4_k.py for one row; lanes are tokens."""
    scale, sums = tokens
    total = add(lower, shift_left(upper, 3))
    mins = planes + _MINS + 16 * r
    offset = dot_i16(zero_i32x16(), sums[0], splat_i32x16(load_i32(mins)))
    offset = dot_i16(offset, sums[1], splat_i32x16(load_i32(mins + 4)))
    offset = dot_i16(offset, sums[2], splat_i32x16(load_i32(mins + 8)))
    offset = dot_i16(offset, sums[3], splat_i32x16(load_i32(mins + 12)))
    d, dmin = splat_f32x16(load_f32(planes + _D + 4 * r)), splat_f32x16(load_f32(planes + _DMIN + 4 * r))
    acc = fma(mul(d, scale), to_f32(total), acc)
    return fma(mul(dmin, scale), to_f32(offset), acc)
