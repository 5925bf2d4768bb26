"""Verbs that change a vector's type or the order of its lanes, against NumPy. All are exact, or rounded correctly."""

from collections.abc import Iterator

import numba
import numpy as np
import numpy.typing as npt
import pytest
import verb_kernels as kernels
from kernel_memory import Region, same_bits

from woolly_worker.kernels.simd import lowering

ALL_HALVES = np.arange(65536, dtype=np.uint16)


def floats_to_try() -> npt.NDArray[np.float32]:
    """Every half, the ties between two halves, their neighbours, and random bit patterns over the whole range."""
    halves = ALL_HALVES.view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    steps = np.sort(np.unique(halves)).astype(np.float64)
    ties = ((steps[:-1] + steps[1:]) / 2).astype(np.float32)  # exact: one bit more than a half has
    largest = np.array([65519.996, 65520.0, 65536.0, 1e38, np.inf, np.nan, 2**-25, 2**-24, 2**-14, 1e-45], np.float32)
    rng = np.random.default_rng(6)
    patterns = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    tiny = (rng.standard_normal(20_000) * 2.0**-20).astype(np.float32)
    positive = np.concatenate([halves, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), largest])
    every = np.concatenate([positive, -positive, patterns, tiny]).astype(np.float32)
    return every[: len(every) // 16 * 16]


@pytest.fixture(scope="module", params=["this CPU's", "in software"])
def half_kernels(request: pytest.FixtureRequest) -> Iterator[tuple[object, object]]:
    """The conversions as this CPU does them, and as a plain x86-64 has to."""
    if request.param == "this CPU's":
        yield kernels.halves_to_floats, kernels.floats_to_halves
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "_HALF_IN_SOFTWARE", True)
        plain = [numba.njit(f.py_func) for f in (kernels.halves_to_floats, kernels.floats_to_halves)]
        one = Region(np.zeros(16), np.float32), Region(np.zeros(64), np.float32)
        for function in plain:
            function(one[0].address, 0, one[1].address)  # compiled here, while the patch holds
        yield plain[0], plain[1]


def test_all_halves_become_floats(half_kernels: tuple[object, object]) -> None:
    to_floats, _ = half_kernels
    x, out = Region(ALL_HALVES, np.uint16, 2), Region(np.zeros((2, 65536)), np.float32)
    to_floats(x.address, 65536, out.address)
    expected = ALL_HALVES.view(np.float16).astype(np.float32)
    for got in out.values:
        assert np.array_equal(got, expected, equal_nan=True)
        assert np.array_equal(np.signbit(got), np.signbit(expected))


def test_floats_become_the_nearest_halves(half_kernels: tuple[object, object]) -> None:
    _, to_halves = half_kernels
    values = floats_to_try()
    x, out = Region(values, np.float32, 4), Region(np.zeros((2, len(values))), np.float16)
    to_halves(x.address, len(values), out.address)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    for got in out.values:
        wrong = ~((got == expected) | (np.isnan(got) & np.isnan(expected))) | (np.signbit(got) != np.signbit(expected))
        assert not wrong.any(), (values[wrong][:5], got[wrong][:5], expected[wrong][:5])


def test_halves_inside_32_bit_lanes() -> None:
    rng = np.random.default_rng(7)
    halves = rng.standard_normal(32).astype(np.float16)
    halves[:4] = [0, -0.0, np.inf, 6e-8]
    out = Region(np.zeros((2, 16)), np.float32)
    kernels.packed_halves(Region(halves, np.float16, 2).address, out.address)
    assert same_bits(out.values, np.stack([halves[0::2], halves[1::2]]).astype(np.float32))


def test_rounding_to_integers_has_ties_to_even() -> None:
    rng = np.random.default_rng(8)
    ties = np.arange(-40, 40, dtype=np.float32) + np.float32(0.5)
    limits = np.array([2.0**22 - 1, -(2.0**22) + 1, 0.49999997, -0.49999997, 0.0, -0.0, 126.5, 127.5], np.float32)
    values = np.concatenate([ties, limits, rng.uniform(-(2.0**21), 2.0**21, 8 + 16 * 100).astype(np.float32)])
    for x in values[: len(values) // 16 * 16].reshape(-1, 16):
        out = Region(np.zeros(16), np.int32)
        kernels.rounded(Region(x, np.float32).address, out.address)
        assert np.array_equal(out.values, np.rint(x).astype(np.int32))


def test_extensions() -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 256, 32).astype(np.uint8)
    x[:4] = [0x7F, 0x80, 0xFF, 0x00]
    out = Region(np.zeros(5 * 16), np.int32)
    kernels.extensions(Region(x, np.uint8, 1).address, out.address)
    shorts = x.view(np.int16)
    expected = [x[:16].view(np.int8), x[:16], shorts, shorts.view(np.uint16), shorts[:8], shorts.view(np.uint16)[:8]]
    assert np.array_equal(out.values, np.concatenate([part.astype(np.int32) for part in expected]))


def test_bytes_become_shorts() -> None:
    x = np.random.default_rng(5).integers(0, 256, 32).astype(np.uint8)
    out = Region(np.zeros((3, 32)), np.int16)
    kernels.bytes_as_shorts(Region(x, np.uint8, 1).address, out.address)
    expected = [x.view(np.int8), x, x.astype(np.int16) - 3]
    assert np.array_equal(out.values, np.stack([row.astype(np.int16) for row in expected]))


def test_bytes_become_16_bits_unsigned() -> None:
    x = np.roll(np.arange(256, dtype=np.uint8), 16)[:32]  # from 240 on, past 255
    out = Region(np.zeros(16 + 32), np.int16)
    kernels.bytes_as_i16(Region(x, np.uint8, 1).address, out.address)
    assert np.array_equal(out.values, np.concatenate([x[:16], x]))


def test_narrowings_keep_the_low_bits() -> None:
    x = np.array([0, 1, -1, 127, 128, -128, -129, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 7, 8, 9], np.int32)
    out = Region(np.zeros(48), np.uint8)
    kernels.narrowings(Region(x, np.int32).address, out.address)
    assert np.array_equal(out.values[:16].view(np.int8), x.astype(np.int8))
    assert np.array_equal(out.values[16:].view(np.int16), x.astype(np.int16))


def test_casts_and_concatenation_change_no_byte() -> None:
    x = np.random.default_rng(10).integers(0, 256, 64).astype(np.uint8)
    out = Region(np.zeros(288 + 32), np.uint8)
    kernels.casts(Region(x, np.uint8).address, out.address)
    assert np.array_equal(out.values, np.concatenate([x, x, x, x[:32], x, x[:32]]))


def test_words_of_a_vector() -> None:
    x = np.random.default_rng(11).integers(-(2**63), 2**63 - 1, 8)
    out = Region(np.zeros(5), np.int64)
    kernels.words(Region(x, np.int64, 1).address, out.address)
    assert out.values.tolist() == [*x[3::-1], x[7]]


def test_bytes_of_two_integers_become_eight_lanes() -> None:
    low, high = np.int32(-2), np.int32(0x01807F40)
    out = Region(np.zeros(8), np.int32)
    kernels.wide_bytes(low, high, out.address)
    assert out.values.tolist() == [0xFE, 0xFF, 0xFF, 0xFF, 0x40, 0x7F, 0x80, 0x01]
