"""Verbs over tiles of rows by tokens: every pair gets what the verbs over one vector would, in the same order."""

from collections.abc import Callable

import numpy as np
import product_kernels as kernels
import pytest
from kernel_memory import Region, same_bits
from test_simd_arithmetic import fold

from woolly_worker.kernels.simd.sizes import PRODUCT_LANES
from woolly_worker.kernels.simd.sizes import PRODUCT_ROWS as ROWS

TOKENS, LANES, STRIDE = 3, 16, 72


@pytest.mark.parametrize(("n_rows", "kernel"), [(2, kernels.two_rows), (4, kernels.four_rows)])
def test_every_row_meets_every_token(n_rows: int, kernel: Callable[..., None]) -> None:
    rng = np.random.default_rng(1)
    rows, x = rng.standard_normal((n_rows, LANES)), rng.standard_normal((TOKENS, STRIDE // 4))
    rows, x = rows.astype(np.float32), x.astype(np.float32)
    # What is added cancels the rounded products, so the results are their rounding errors: exact, unless rounded twice.
    tile = -(rows[:, np.newaxis] * x[:, :LANES])
    exact = rows.astype(np.float64)[:, np.newaxis] * x.astype(np.float64)[:, :LANES] + tile
    assert exact.any(axis=-1).all()
    out = Region(np.zeros((n_rows, TOKENS, LANES)), np.float32)
    regions = [Region(a, np.float32, 4) for a in (tile, rows, x)]
    kernel(*(region.address for region in regions), STRIDE, out.address)
    assert np.array_equal(out.values.astype(np.float64), exact)


def test_a_tile_starts_from_zero() -> None:
    out = Region(np.full(ROWS * PRODUCT_LANES + 2, 7.5), np.float32)
    kernels.empty_tile(out.address)
    assert not out.values[: ROWS * PRODUCT_LANES].any()
    assert out.values[ROWS * PRODUCT_LANES :].view(np.int64)[0] == ROWS


def test_parts_of_the_lanes_are_what_all_of_them_are() -> None:
    rng = np.random.default_rng(3)
    tile, rows, x = (
        Region(rng.standard_normal(shape), np.float32, 4)
        for shape in ((ROWS, TOKENS, LANES), (ROWS, LANES), (TOKENS, STRIDE // 4))
    )
    whole, parts = (Region(np.zeros((ROWS, TOKENS, LANES)), np.float32) for _ in range(2))
    kernels.four_rows(tile.address, rows.address, x.address, STRIDE, whole.address)
    kernels.first_part(tile.address, rows.address, x.address, STRIDE, parts.address)
    kernels.last_part(tile.address, rows.address, x.address, STRIDE, parts.address)
    assert same_bits(parts.values, whole.values)


@pytest.mark.parametrize("stride", [64, 128, 68])
def test_sixteen_sums_are_folded_in_halves(stride: int) -> None:
    """Sums of very different numbers, so that another order would show; zeros of both signs and infinities too."""
    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal((16, LANES)) * 10.0 ** rng.integers(-6, 7, (16, LANES))).astype(np.float32)
    vectors[3], vectors[4], vectors[5, 7] = 0, -0.0, np.inf
    spread = np.zeros((16, stride // 4), np.float32)
    spread[:, :LANES] = vectors
    out = Region(np.zeros(LANES), np.float32, 4)
    kernels.sixteen_sums(Region(spread, np.float32, 4).address, stride, out.address)
    assert same_bits(out.values, np.array([fold(vector) for vector in vectors]))
