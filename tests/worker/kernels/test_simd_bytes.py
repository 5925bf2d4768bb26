"""Products of bytes: exact, whatever instructions carry them, for every largest byte that a kernel may name."""

import numpy as np
import numpy.typing as npt
import pytest
from byte_kernels import kernels_for, signed_dots, signed_dots_times, signed_groups
from kernel_memory import Region

from woolly_worker.kernels.simd.sizes import IN_SHORTS

GROUPS, LANES, TOKENS, STRIDE = 9, 16, 3, 40
LARGEST = [1, 2, 3, 7, 15, 16, 28, 31, 32, 33, 45, 63, 64, 65, 126, 128]  # and edges
if not IN_SHORTS:
    LARGEST += [129, 241, 255]
FILLS = [None, (1.0, 127), (1.0, -128), (0.5, -128), (0.0, -128), (1.0, -1)]  # of the largest, and the signed byte


def unsigned(
    rng: np.random.Generator, largest: int, fill: tuple[float, int] | None, *shape: int
) -> npt.NDArray[np.uint8]:
    if fill is None:
        return rng.integers(0, largest + 1, shape).astype(np.uint8)
    return np.full(shape, int(fill[0] * largest), np.uint8)


def signed(rng: np.random.Generator, fill: tuple[float, int] | None, *shape: int) -> npt.NDArray[np.int8]:
    if fill is None:
        return rng.integers(-128, 128, shape).astype(np.int8)
    return np.full(shape, fill[1], np.int8)


def scales_for(rng: np.random.Generator, most: int) -> npt.NDArray[np.int32]:
    scales = rng.integers(-most, most, LANES).astype(np.int32)
    scales[:2] = -most, most - 1
    return scales


def by_fours(u: npt.NDArray[np.uint8], s: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    return (u.astype(np.int32) * s.astype(np.int32)).reshape(-1, 4).sum(axis=1, dtype=np.int32)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("largest", LARGEST)
def test_dots_are_exact(largest: int, fill: tuple[float, int] | None) -> None:
    rng = np.random.default_rng(4)
    u, s = unsigned(rng, largest, fill, 64), signed(rng, fill, 64)
    acc, scales = rng.integers(-(2**30), 2**30, LANES).astype(np.int32), scales_for(rng, 128)
    regions = [Region(acc, np.int32, 1), Region(u, np.uint8, 1), Region(s, np.int8, 1)]
    addresses = [region.address for region in regions]
    out = Region(np.zeros(24), np.int32)
    kernels_for(largest).dots(*addresses, out.address)
    exact = by_fours(u, s)
    assert np.array_equal(out.values[:16], acc + exact)
    assert np.array_equal(out.values[16:], acc[:8] + exact[:8])
    if largest <= (128 if IN_SHORTS else 64):  # beyond, a sum does not fit the 16 bits that are scaled
        out = Region(np.zeros(32), np.int32)
        kernels_for(largest).dots_times(*addresses, Region(scales, np.int32).address, out.address)
        assert np.array_equal(out.values[:16], acc + scales * exact)
        assert np.array_equal(out.values[16:], scales[0] * exact)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("largest", LARGEST)
def test_groups_are_exact(largest: int, fill: tuple[float, int] | None) -> None:
    rng = np.random.default_rng(5)
    panel, x = unsigned(rng, largest, fill, GROUPS, LANES, 4), signed(rng, fill, TOKENS, STRIDE)
    regions = [Region(panel, np.uint8, 1), Region(x, np.int8, 1)]
    addresses = [region.address for region in regions]
    values = x[:, : 4 * GROUPS].reshape(TOKENS, GROUPS, 4).astype(np.int32)
    by_group = np.einsum("grk,tgk->gtr", panel.astype(np.int32), values)
    out = Region(np.zeros((3, TOKENS, LANES)), np.int32)
    kernels_for(largest).groups(*addresses, STRIDE, out.address)
    assert np.array_equal(out.values[0], by_group.sum(axis=0))
    assert np.array_equal(out.values[1], by_group[0])
    assert np.array_equal(out.values[2], by_group[0])
    scales = scales_for(rng, 32767)
    out = Region(np.zeros((TOKENS + 1, LANES)), np.int32)
    kernels_for(largest).groups_times(*addresses, STRIDE, Region(scales, np.int32).address, out.address)
    exact = 2 * scales.astype(np.int64) * by_group.sum(axis=0)
    assert np.array_equal(out.values[:TOKENS], exact.astype(np.int32))  # wraps like 32 bits where it has to
    assert np.array_equal(out.values[TOKENS], exact[0].astype(np.int32))


SIGNED_FILLS = [None, (-128, 127), (-128, -127), (127, 127), (127, -127), (-1, 1)]  # of the weights, and the tokens
only_in_shorts = pytest.mark.skipif(not IN_SHORTS, reason="only for CPUs that add products of bytes up in 16 bits")


@only_in_shorts
@pytest.mark.parametrize("fill", SIGNED_FILLS)
def test_signed_groups_are_exact(fill: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(7)
    panel = rng.integers(-128, 128, (GROUPS, LANES, 4)).astype(np.int8)
    x = rng.integers(-127, 128, (TOKENS, STRIDE)).astype(np.int8)
    if fill is not None:
        panel[:], x[:] = fill
    scales, out = scales_for(rng, 32767), Region(np.zeros((3 * TOKENS + 1, LANES)), np.int32)
    regions = Region(panel, np.int8, 1), Region(x, np.int8, 1)
    signed_groups(*(region.address for region in regions), STRIDE, Region(scales, np.int32).address, out.address)
    values = x[:, : 4 * GROUPS].reshape(TOKENS, GROUPS, 4).astype(np.int32)
    exact = np.einsum("grk,tgk->tr", panel.astype(np.int32), values)
    assert np.array_equal(out.values[:TOKENS], exact)
    times_scales = exact + scales.astype(np.int64) * exact
    assert np.array_equal(out.values[TOKENS : 2 * TOKENS], times_scales.astype(np.int32))  # wraps where it has to
    assert np.array_equal(out.values[2 * TOKENS], exact[0])
    each = np.einsum("rk,tk->tr", panel[0].astype(np.int32), values[:, 0])
    assert np.array_equal(out.values[2 * TOKENS + 1 :], each)


@only_in_shorts
@pytest.mark.parametrize("fill", SIGNED_FILLS)
def test_signed_dots_are_exact(fill: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.integers(-128, 128, 64).astype(np.int8), rng.integers(-127, 128, 64).astype(np.int8)
    if fill is not None:
        x[:], y[:] = fill
    acc = rng.integers(-(2**30), 2**30, LANES).astype(np.int32)
    out = Region(np.zeros(24), np.int32)
    regions = Region(acc, np.int32, 1), Region(x, np.int8, 1), Region(y, np.int8, 1)
    signed_dots(*(region.address for region in regions), out.address)
    exact = (x.astype(np.int32) * y.astype(np.int32)).reshape(-1, 4).sum(axis=1, dtype=np.int32)
    assert np.array_equal(out.values[:16], acc + exact)
    assert np.array_equal(out.values[16:], acc[:8] + exact[:8])
    scales = scales_for(rng, 32767)
    out = Region(np.zeros(32), np.int32)
    signed_dots_times(*(region.address for region in regions), Region(scales, np.int32).address, out.address)
    # These wrap like 32 bits where they have to.
    assert np.array_equal(out.values[:16], (acc + scales.astype(np.int64) * exact).astype(np.int32))
    assert np.array_equal(out.values[16:], (int(scales[0]) * exact.astype(np.int64)).astype(np.int32))
