"""Kernels that do nothing but apply verbs and write down what comes out, for the tests of the vocabulary.

Each writes its results one after the other, 64 bytes (or one scalar's four) for each verb, in the order of the tuple
of names above it.
"""

import numpy as np

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import (
    absolute,
    add,
    add_to_exponent,
    and_bits,
    as_f16x16,
    as_f32x16,
    as_i8x32,
    as_i8x64,
    as_i16x32,
    as_i32x16,
    band,
    bor,
    bxor,
    byte_table,
    choose,
    concat,
    div,
    dot_i16,
    filled_like,
    first_lane,
    first_lanes_or,
    flip_even_signs,
    fma,
    fma_scalar,
    grid_verbs,
    hadamard,
    high_halves_f32,
    hmax,
    hsum,
    lanes_i8x16,
    load_f16,
    load_f16x16,
    load_f32,
    load_f32x16,
    load_first_f32x16,
    load_first_i16x16,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16,
    load_i16x8,
    load_i16x16,
    load_i32,
    load_i32x8,
    load_i32x16,
    load_i64,
    load_u8,
    low_halves_f32,
    maximum,
    minimum,
    minus_literal,
    mul,
    narrow_to_i8,
    narrow_to_i16,
    negate,
    or_bits,
    prefetch,
    prefetch_here,
    round_to_i32,
    shift_left,
    shift_right,
    shift_right_by,
    shift_right_signed,
    sign_extend,
    sign_extend_to_i16,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    spread,
    sqrt_f32,
    stack_bytes,
    store,
    store_apart,
    store_bytes_apart,
    store_f16,
    store_f32,
    store_first,
    store_i8,
    store_i16,
    store_i32,
    store_i64,
    sub,
    to_f16,
    to_f32,
    widen_bytes,
    word_of,
    xor_bits,
    zero_extend,
    zero_extend_to_i16,
    zero_f32x16,
    zero_i32x8,
    zero_i32x16,
    zero_where_less,
)

FLOAT_VERBS = (
    "add", "sub", "mul", "div", "maximum", "minimum", "fma", "negate", "absolute",
    "flip_even_signs", "zero_where_less", "first_lanes_or", "splat", "zero", "spread", "hadamard",
)  # fmt: skip


@kernel
def float_verbs(x, y, z, bound, n, out):
    """x, y, z: sixteen f32 each; bound: f32; n: how many lanes count."""
    a, b, c = load_f32x16(x), load_f32x16(y), load_f32x16(z)
    store(out, add(a, b))
    store(out + 64, sub(a, b))
    store(out + 128, mul(a, b))
    store(out + 192, div(a, b))
    store(out + 256, maximum(a, b))
    store(out + 320, minimum(a, b))
    store(out + 384, fma(a, b, c))
    store(out + 448, negate(a))
    store(out + 512, absolute(a))
    store(out + 576, flip_even_signs(a))
    store(out + 640, zero_where_less(a, bound, b))
    store(out + 704, first_lanes_or(a, n, bound))
    store(out + 768, splat_f32x16(bound))
    store(out + 832, zero_f32x16())
    store(out + 896, spread(a, "fedcba9876543210"))
    store(out + 960, hadamard(a))


FLOAT_SCALARS = ("hsum", "hmax", "first_lane", "fma_scalar", "sqrt_f32")


@kernel
def float_scalars(x, a, b, c, out):
    v = load_f32x16(x)
    store_f32(out, hsum(v))
    store_f32(out + 4, hmax(v))
    store_f32(out + 8, first_lane(v))
    store_f32(out + 12, fma_scalar(a, b, c))
    store_f32(out + 16, sqrt_f32(a))


INT_VERBS = (
    "add", "sub", "mul", "band", "bor", "bxor", "and_bits", "or_bits", "xor_bits", "filled_like",
    "shift_left", "shift_right", "shift_right_signed", "splat", "zero", "to_f32",
)  # fmt: skip


@kernel
def int_verbs(x, y, number, out):
    a, b = load_i32x16(x), load_i32x16(y)
    store(out, add(a, b))
    store(out + 64, sub(a, b))
    store(out + 128, mul(a, b))
    store(out + 192, band(a, b))
    store(out + 256, bor(a, b))
    store(out + 320, bxor(a, b))
    store(out + 384, and_bits(a, 0x0F0F0F0F))
    store(out + 448, or_bits(a, 0x0F0F0F0F))
    store(out + 512, xor_bits(a, 0x80808080))
    store(out + 576, filled_like(a, -3))
    store(out + 640, shift_left(a, 5))
    store(out + 704, shift_right(a, 5))
    store(out + 768, shift_right_signed(a, 5))
    store(out + 832, splat_i32x16(number))
    store(out + 896, zero_i32x16())
    store(out + 960, to_f32(a))


@kernel
def byte_verbs(x, out):
    """Verbs on sixteen bytes: lanes must not leak into their neighbours."""
    a = load_i8x16(x)
    store(out, and_bits(a, 15))
    store(out + 16, shift_right(a, 4))
    store(out + 32, xor_bits(a, 0x80))
    store(out + 48, shift_left(a, 3))
    store(out + 64, or_bits(a, 0x81))
    store(out + 80, filled_like(a, 0x81))


@kernel
def int_sums(x, out):
    store_i32(out, hsum(load_i32x16(x)))
    store_i32(out + 4, hsum(add(load_i32x8(x), zero_i32x8())))


@kernel
def int_maxima(x, y, out):
    a, b = load_i32x16(x), load_i32x16(y)
    store(out, maximum(a, b))
    store(out + 64, minimum(a, b))
    store_i32(out + 128, hmax(a))


@kernel
def pair_dots(acc, x, y, out):
    """Sixteen lanes, then eight."""
    store(out, dot_i16(load_i32x16(acc), load_i32x16(x), load_i32x16(y)))
    store(out + 64, dot_i16(load_i32x8(acc), load_i32x8(x), load_i32x8(y)))


TABLE = (0, 255, 128, 127, 1, 2, 77, 130, 254, 16, 15, 200, 3, 99, 31, 129)
in_table = byte_table(lambda: TABLE)


@kernel
def looked_up(x, out):
    """64 bytes, 32 and 16, and 64 in lanes of 32 bits."""
    store(out, in_table(load_i8x64(x)))
    store(out + 64, in_table(load_i8x32(x)))
    store(out + 96, in_table(load_i8x16(x)))
    store(out + 112, in_table(load_i32x16(x)))


@kernel
def constant_lanes(number, out):
    store(out, lanes_i8x16("0123456789abcxyz"))
    store(out + 16, shift_right_by(splat_i32x8(number), "0123vk4a"))
    store(out + 48, splat_i32x8(number))


@kernel
def extensions(x, out):
    """i8 and i16, signed and not, to i32: 4 x 64 bytes, then i16x8: 2 x 32."""
    store(out, sign_extend(load_i8x16(x)))
    store(out + 64, zero_extend(load_i8x16(x)))
    store(out + 128, sign_extend(load_i16x16(x)))
    store(out + 192, zero_extend(load_i16x16(x)))
    store(out + 256, sign_extend(load_i16x8(x)))
    store(out + 288, zero_extend(load_i16x8(x)))


@kernel
def bytes_as_i16(x, out):
    store(out, zero_extend_to_i16(load_i8x16(x)))
    store(out + 32, zero_extend_to_i16(load_i8x32(x)))


@kernel
def choices(bits, x, y, out):
    """By the bits at an address: 64 lanes of bytes, then 32 of 16 bits."""
    store(out, choose(load_i64(bits), load_i8x64(x), load_i8x64(y)))
    store(out + 64, choose(load_i32(bits), as_i16x32(load_i8x64(x)), as_i16x32(load_i8x64(y))))


@kernel
def narrowings(x, out):
    store(out, narrow_to_i8(load_i32x16(x)))
    store(out + 16, narrow_to_i16(load_i32x16(x)))


@kernel
def casts(x, out):
    """The same 64 bytes under every name."""
    store(out, as_i32x16(as_f32x16(load_i32x16(x))))
    store(out + 64, as_i8x64(load_i32x16(x)))
    store(out + 128, as_i16x32(load_f32x16(x)))
    store(out + 192, as_f16x16(load_i16x16(x)))
    store(out + 224, concat(load_i8x32(x), load_i8x32(x + 32)))
    store(out + 288, as_i8x32(load_i32x8(x)))


@kernel
def words(x, out):
    """Every word of 32 bytes, the last first; then the last of 64 bytes as i16."""
    bytes_ = load_i8x32(x)
    store_i64(out, word_of(bytes_, 3))
    store_i64(out + 8, word_of(bytes_, 2))
    store_i64(out + 16, word_of(bytes_, 1))
    store_i64(out + 24, word_of(bytes_, 0))
    store_i64(out + 32, word_of(as_i16x32(load_i8x64(x)), 7))


@kernel
def wide_bytes(low, high, out):
    store(out, widen_bytes(low, high))


@kernel
def rounded(x, out):
    store(out, round_to_i32(load_f32x16(x)))


@kernel
def exponents(x, n, out):
    store(out, add_to_exponent(load_f32x16(x), load_i32x16(n)))


@kernel
def halves_to_floats(x, n, out):
    """n halves, a multiple of 16, by vectors into the first half of out and one by one into the second."""
    for k in range(0, n, 16):
        store(out + 4 * k, to_f32(load_f16x16(x + 2 * k)))
    for k in range(n):
        store_f32(out + 4 * (n + k), load_f16(x + 2 * k))


@kernel
def floats_to_halves(x, n, out):
    for k in range(0, n, 16):
        store(out + 2 * k, to_f16(load_f32x16(x + 4 * k)))
    for k in range(n):
        store_f16(out + 2 * (n + k), load_f32(x + 4 * k))


@kernel
def packed_halves(x, out):
    store(out, low_halves_f32(load_i32x16(x)))
    store(out + 64, high_halves_f32(load_i32x16(x)))


@kernel
def partial_copy(x, x16, n, out, out16):
    """The first n lanes of sixteen floats and of sixteen 16-bit integers; whole vectors are stored."""
    store(out, load_first_f32x16(x, n))
    store(out16, load_first_i16x16(x16, n))


@kernel
def partial_store(x, n, out):
    store_first(out, load_f32x16(x), n)


@kernel
def bytes_as_shorts(x, out):
    """32 bytes as i16: signed, unsigned, and 3 less than that; 64 bytes each."""
    store(out, sign_extend_to_i16(load_i8x32(x)))
    store(out + 64, zero_extend_to_i16(load_i8x32(x)))
    store(out + 128, minus_literal(zero_extend_to_i16(load_i8x32(x)), 3))


@kernel
def spread_out(x, words, items):
    """16 bytes at x, four by four 8 bytes apart, and one by one 2 bytes apart."""
    store_apart(words, 8, load_i8x16(x))
    store_bytes_apart(items, 2, load_i8x16(x))


@kernel
def scalar_copies(x, out):
    """Every scalar load, widened, and every scalar store, narrowed."""
    store_i64(out, load_i64(x))
    store_i32(out + 8, load_i32(x))
    store_i32(out + 12, load_i16(x))
    store_i32(out + 16, load_i8(x))
    store_i32(out + 20, load_u8(x))
    store_f32(out + 24, load_f32(x))
    store_i16(out + 28, load_i32(x))
    store_i8(out + 30, load_i32(x))


@kernel
def prefetched(address):
    prefetch(address)
    prefetch_here(address)
    return np.int64(1)


def random_grid(n: int, entry_bytes: int, values: list[int]) -> np.ndarray:
    return np.random.default_rng(n).choice(np.array(values, np.uint8), (n, entry_bytes))


# Tables that are permuted where the CPU can, with full and with partly used vectors, and one that is not.
FOURS = random_grid(512, 4, [1, 3, 65, 66, 100, 127, 128, 255])
EIGHTS = random_grid(300, 8, [8, 25, 200])
MANY = random_grid(2048, 8, [0, 1, 2])

note_fours, entries_of_fours = grid_verbs("fours", lambda: FOURS)
note_eights, entries_of_eights = grid_verbs("eights", lambda: EIGHTS)
note_many, entries_of_many = grid_verbs("many", lambda: MANY)


@kernel
def look_ups(indices, out):
    """The entries of 32 indices in each grid: 128, 256 and 256 bytes."""
    fours = note_fours(as_i16x32(load_i8x64(indices)))
    store(out, entries_of_fours(fours, 0))
    store(out + 64, entries_of_fours(fours, 1))
    eights = note_eights(as_i16x32(load_i8x64(indices + 64)))
    store(out + 128, entries_of_eights(eights, 0))
    store(out + 192, entries_of_eights(eights, 1))
    store(out + 256, entries_of_eights(eights, 2))
    store(out + 320, entries_of_eights(eights, 3))
    many = note_many(as_i16x32(load_i8x64(indices + 128)))
    store(out + 384, entries_of_many(many, 0))
    store(out + 448, entries_of_many(many, 1))
    store(out + 512, entries_of_many(many, 2))
    store(out + 576, entries_of_many(many, 3))


@kernel
def by_way_of_the_stack(x, n, out):
    """Copies n x 64 bytes, each by way of the same place; returns how far it is from a multiple of 64."""
    place = stack_bytes(64)
    for k in range(n):
        store(place, load_i8x64(x + 64 * k))
        store(out + 64 * k, load_i8x64(place))
    return place % 64


@kernel
def turns_on_the_stack(x, n):
    """Takes scratch n times; returns what the last one holds."""
    value = np.int32(0)
    for _ in range(n):
        place = stack_bytes(64)
        store(place, load_i8x64(x))
        value = load_u8(place)
    return value
