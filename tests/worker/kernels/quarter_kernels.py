"""Kernels that apply the verbs over four blocks at once and write down what comes out, for their tests."""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import (
    as_i32x16,
    bytes_from_bits,
    first_lanes,
    first_of_quarters,
    in_quarters,
    lane,
    load_f32x16,
    load_four_f16,
    load_four_f32,
    load_four_i32,
    load_i8x32,
    load_i8x64,
    load_i32,
    load_i32x16,
    load_quarters,
    mins_of_quarters,
    quarter_sums,
    shift_halves,
    shift_right_in_quarters,
    shift_sixteens,
    sixteen_bytes,
    sixteen_twice,
    store,
    store_f32,
    sum_in_order,
    sums_of_eight,
    sums_of_four,
    twice,
    two_factors,
    with_lane,
)


@kernel
def quarters(x, out):
    """x: eight i32x16, one behind the other. 64 bytes for each result."""
    a, b = load_i32x16(x), load_i32x16(x + 64)
    store(out, load_quarters(x + 4, x + 100, x + 200, x + 300))
    store(out + 64, in_quarters(1, 2, 3, 4))
    store(out + 128, shift_right_in_quarters(a, 0, 4, 8, 31))
    store(out + 192, mins_of_quarters(a, b))
    store(out + 256, first_of_quarters(a))
    store(out + 320, quarter_sums(a))
    store(out + 384, sums_of_four(a, b, load_i32x16(x + 128), load_i32x16(x + 192)))
    c, d, e = load_i32x16(x + 128), load_i32x16(x + 192), load_i32x16(x + 256)
    f, g, h = load_i32x16(x + 320), load_i32x16(x + 384), load_i32x16(x + 448)
    store(out + 448, sums_of_eight(a, b, c, d, e, f, g, h))


@kernel
def selected_bytes(x, out):
    """x: 64 bytes, the first of which is zero. 64 bytes for each result."""
    all64, half = load_i8x64(x), load_i8x32(x)
    store(out, two_factors(as_i32x16(all64), 22))
    store(out + 64, shift_halves(all64, 0, 4))
    store(out + 128, shift_halves(all64, -4, 2))
    store(out + 192, shift_sixteens(all64, 0, 4))
    store(out + 256, twice(half))
    store(out + 320, sixteen_twice(half))
    store(out + 384, bytes_from_bits(load_i32(x + 4), load_i32(x + 8), 16))
    store(out + 448, sixteen_bytes(all64, 16))


@kernel
def floats(x, n, out):
    a, b = load_f32x16(x), load_f32x16(x + 64)
    store(out, first_lanes(n, a, b))
    store(out + 64, with_lane(a, n, lane(b, n)))
    store(out + 128, load_four_f32(x, x + 20, x + 64, x + 68))
    store(out + 192, load_four_f16(x, x + 6, x + 64, x + 66))
    store_f32(out + 256, sum_in_order(a))
    store(out + 272, load_four_i32(x, x + 20, x + 64, x + 68))
