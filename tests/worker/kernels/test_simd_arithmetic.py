"""Arithmetic verbs against NumPy: every one is a single IEEE or integer operation, so results are equal in bits."""

import numpy as np
import numpy.typing as npt
import pytest
import verb_kernels as kernels
from kernel_memory import Region, same_bits

LANES = 16
INF, NAN = np.inf, np.nan
# Zeros of both signs, subnormals, the ends of the range, infinities and NaN, in an order that pairs them up.
AWKWARD = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, INF, -INF, NAN, 1.0, -1.0, 1.5, 2**-126, 1 / 3, -1e-30, 7.0], np.float32
)


def cases() -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(1)
    result = [
        tuple((rng.standard_normal(LANES) * 10.0 ** rng.integers(-30, 30, LANES)).astype(np.float32) for _ in range(3))
        for _ in range(20)
    ]
    result += [(AWKWARD, np.roll(AWKWARD, shift), np.roll(AWKWARD, 3 * shift)) for shift in range(LANES)]
    return result


def same_numbers(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    """Equal in bits, but for the payload and sign of a NaN, which IEEE leaves open."""
    return same_bits(np.where(np.isnan(a), NAN, a).astype(np.float32), np.where(np.isnan(b), NAN, b).astype(np.float32))


def walsh(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sums and differences of the lanes 1, 2, 4 and 8 apart, one after the other."""
    for step in (1, 2, 4, 8):
        pairs = x.reshape(-1, 2, step)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
    return x


@pytest.mark.parametrize("offset", [0, 4, 1])
def test_float_verbs(offset: int) -> None:
    bound, n = np.float32(0.25), 5
    lanes = np.arange(LANES)
    for a, b, c in cases():
        x, y, z = (Region(values, np.float32, offset) for values in (a, b, c))
        out = Region(np.zeros((len(kernels.FLOAT_VERBS), LANES)), np.float32, offset)
        kernels.float_verbs(x.address, y.address, z.address, bound, n, out.address)
        got = dict(zip(kernels.FLOAT_VERBS, out.values, strict=True))
        with np.errstate(all="ignore"):
            expected = {
                "add": a + b,
                "sub": a - b,
                "mul": a * b,
                "div": a / b,
                "maximum": np.where(a > b, a, b),  # the definition: NaN and -0 give the second operand
                "minimum": np.where(a < b, a, b),
                "negate": -a,
                "absolute": np.abs(a),
                "flip_even_signs": np.where(lanes % 2 == 0, -a, a),
                "zero_where_less": np.where(a >= bound, b, np.float32(0)),
                "first_lanes_or": np.where(lanes < n, a, bound),
                "splat": np.full(LANES, bound),
                "zero": np.zeros(LANES),
                "spread": a[::-1],
                "hadamard": walsh(a),
            }
        for name, values in expected.items():
            assert same_numbers(got[name], values.astype(np.float32)), name


@pytest.mark.parametrize("n", [-16, -1, 0, 1, 15, 16, 17, 1 << 40])
def test_lanes_beyond_n_are_replaced(n: int) -> None:
    x = Region(np.arange(1, 17), np.float32)
    out = Region(np.zeros((len(kernels.FLOAT_VERBS), LANES)), np.float32)
    kernels.float_verbs(x.address, x.address, x.address, np.float32(-INF), n, out.address)
    got = out.values[kernels.FLOAT_VERBS.index("first_lanes_or")]
    assert same_bits(got, np.where(np.arange(LANES) < n, np.arange(1, 17), -INF).astype(np.float32))


def test_fma_rounds_once() -> None:
    """a b - round(a b) is the product's rounding error, which is representable: a second rounding would lose it."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        a, b = (rng.standard_normal(LANES).astype(np.float32) for _ in range(2))
        c = -(a * b)
        x, y, z = Region(a, np.float32), Region(b, np.float32), Region(c, np.float32)
        out = Region(np.zeros((len(kernels.FLOAT_VERBS), LANES)), np.float32)
        kernels.float_verbs(x.address, y.address, z.address, np.float32(0), 0, out.address)
        error = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
        assert error.any()
        got = out.values[kernels.FLOAT_VERBS.index("fma")]
        assert np.array_equal(got.astype(np.float64), error)
        scalars = Region(np.zeros(len(kernels.FLOAT_SCALARS)), np.float32)
        kernels.float_scalars(x.address, a[3], b[3], c[3], scalars.address)
        assert scalars.values[kernels.FLOAT_SCALARS.index("fma_scalar")] == np.float32(error[3])


def fold(x: npt.NDArray[np.float32]) -> np.float32:
    """The order in which `hsum` adds: halves folded onto each other."""
    while len(x) > 1:
        half = len(x) // 2
        x = x[:half] + x[half:]
    return x[0]


def test_reductions_and_scalars() -> None:
    for a, _, _ in cases()[:20]:
        x = Region(a, np.float32, 4)
        out = Region(np.zeros(len(kernels.FLOAT_SCALARS)), np.float32)
        number = np.abs(a[0])
        kernels.float_scalars(x.address, number, a[1], a[2], out.address)
        got = dict(zip(kernels.FLOAT_SCALARS, out.values, strict=True))
        assert got["hsum"] == fold(a)
        assert got["hmax"] == a.max()
        assert got["first_lane"] == a[0]
        assert got["sqrt_f32"] == np.sqrt(number)


def test_int_verbs() -> None:
    rng = np.random.default_rng(3)
    extremes = np.array([0, 1, -1, 2**31 - 1, -(2**31), 255, -256, 0x0F0F0F0F] * 2, np.int32)
    pairs = [(rng.integers(-(2**31), 2**31, (2, LANES)).astype(np.int32)) for _ in range(20)]
    pairs += [np.stack([extremes, np.roll(extremes, shift)]) for shift in range(8)]
    for a, b in pairs:
        x, y = Region(a, np.int32, 1), Region(b, np.int32, 2)
        out = Region(np.zeros((len(kernels.INT_VERBS), LANES)), np.int32)
        kernels.int_verbs(x.address, y.address, np.int32(-7), out.address)
        got = dict(zip(kernels.INT_VERBS, out.values, strict=True))
        with np.errstate(over="ignore"):
            expected = {
                "add": a + b,
                "sub": a - b,
                "mul": a * b,
                "band": a & b,
                "bor": a | b,
                "bxor": a ^ b,
                "and_bits": a & 0x0F0F0F0F,
                "or_bits": a | 0x0F0F0F0F,
                "filled_like": np.full(LANES, -3, np.int32),
                "xor_bits": (a.view(np.uint32) ^ np.uint32(0x80808080)).view(np.int32),
                "shift_left": a << 5,
                "shift_right": (a.view(np.uint32) >> 5).view(np.int32),
                "shift_right_signed": a >> 5,
                "splat": np.full(LANES, -7, np.int32),
                "zero": np.zeros(LANES, np.int32),
                "to_f32": a.astype(np.float32).view(np.int32),
            }
        for name, values in expected.items():
            assert same_bits(got[name], values), name


def test_byte_verbs_keep_to_their_lanes() -> None:
    every = np.arange(256, dtype=np.uint8)
    for start in range(0, 256, LANES):
        a = every[start : start + LANES]
        out = Region(np.zeros((6, LANES)), np.uint8)
        kernels.byte_verbs(Region(a, np.uint8, 3).address, out.address)
        expected = [a & 15, a >> 4, a ^ 0x80, (a << 3).astype(np.uint8), a | 0x81, np.full(LANES, 0x81, np.uint8)]
        assert np.array_equal(out.values, np.stack(expected))


def test_lanes_are_chosen_by_bits() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 256, (2, 64)).astype(np.uint8)
    for bits in (0, 1, 1 << 63, (1 << 64) - 1, 0x80000001, 0xF0F0_0000_1234_5678, int(rng.integers(1 << 62))):
        place = Region([bits], np.uint64, 1)
        set_ = np.unpackbits(np.array([bits], "<u8").view(np.uint8), bitorder="little").astype(bool)
        out = Region(np.zeros(128), np.uint8)
        kernels.choices(place.address, Region(x, np.uint8).address, Region(y, np.uint8).address, out.address)
        assert np.array_equal(out.values[:64], np.where(set_, x, y))
        assert np.array_equal(out.values[64:].view(np.int16), np.where(set_[:32], x.view(np.int16), y.view(np.int16)))


def test_integer_sums_wrap_as_32_bits() -> None:
    a = np.array([2**31 - 1] * 8 + [3] * 8, np.int32)
    x, out = Region(a, np.int32), Region([0, 0], np.int32)
    kernels.int_sums(x.address, out.address)
    with np.errstate(over="ignore"):
        assert out.values.tolist() == [int(a.sum(dtype=np.int32)), int(a[:8].sum(dtype=np.int32))]


def test_integer_maxima() -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        a, b = rng.integers(-(2**31), 2**31, (2, LANES)).astype(np.int32)
        x, y = Region(a, np.int32), Region(b, np.int32)
        out = Region(np.zeros(2 * LANES + 1), np.int32)
        kernels.int_maxima(x.address, y.address, out.address)
        assert out.values.tolist() == [*np.maximum(a, b), *np.minimum(a, b), a.max()]


def exact_pair_dot(acc: npt.NDArray[np.int32], x: npt.NDArray[np.int16], y: npt.NDArray[np.int16]) -> list[int]:
    products = x.astype(np.int64) * y.astype(np.int64)
    return (acc + products.reshape(-1, 2).sum(axis=1)).tolist()


@pytest.mark.parametrize("fill", [None, (32767, 32767), (-32768, 32767), (32767, -32768), (-1, -1)])
def test_dot_i16_is_exact(fill: tuple[int, int] | None) -> None:
    """But for -32768 * -32768 twice, no sum of two products leaves the 32 bits; the accumulator must leave room."""
    rng = np.random.default_rng(12)
    for _ in range(20 if fill is None else 1):
        x, y = rng.integers(-32767, 32768, (2, 32)).astype(np.int16)
        acc = np.zeros(LANES, np.int32)
        if fill is None:
            x //= 2
            acc = rng.integers(-(2**30), 2**30, LANES).astype(np.int32)
        else:
            x[:], y[:] = fill
        out = Region(np.zeros(24), np.int32)
        regions = Region(acc, np.int32, 1), Region(x, np.int16, 2), Region(y, np.int16, 2)
        kernels.pair_dots(*(region.address for region in regions), out.address)
        assert out.values[:16].tolist() == exact_pair_dot(acc, x, y)
        assert out.values[16:].tolist() == exact_pair_dot(acc[:8], x[:16], y[:16])


def test_exponents_are_added_exactly() -> None:
    rng = np.random.default_rng(5)
    for n in (-126, -1, 0, 1, 127):
        x = rng.uniform(1, 1.99, LANES).astype(np.float32)
        a, b = Region(x, np.float32), Region(np.full(LANES, n), np.int32)
        out = Region(np.zeros(LANES), np.float32)
        kernels.exponents(a.address, b.address, out.address)
        assert same_bits(out.values, np.ldexp(x, n).astype(np.float32))
