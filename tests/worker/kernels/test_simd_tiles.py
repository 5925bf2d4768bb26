"""Verbs over register tiles: each vector gets what the verb over one vector would give it, in the same order."""

import numpy as np
import numpy.typing as npt
import tile_kernels as kernels
from kernel_memory import Region, same_bits

TOKENS, LANES, STRIDE = 3, 16, 72


def tokens_of_bytes(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Three tokens of 64 bytes, STRIDE apart."""
    return rng.integers(0, 256, (TOKENS, STRIDE)).astype(np.uint8)


def test_integer_dot_products() -> None:
    """Pairs of 16-bit integers; sums wrap like 32 bits where they have to."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        panel, x = rng.integers(0, 256, (2, LANES, 4)).astype(np.uint8), tokens_of_bytes(rng)
        out = Region(np.zeros((2, TOKENS, LANES)), np.int32)
        kernels.integer_dots(Region(panel, np.uint8, 1).address, Region(x, np.uint8, 1).address, STRIDE, out.address)
        pairs = np.ascontiguousarray(panel).view(np.int16).astype(np.int64)
        values = np.ascontiguousarray(x[:, :8]).view(np.int16).astype(np.int64).reshape(TOKENS, 2, 2)
        assert np.array_equal(out.values[0], np.einsum("grk,tgk->tr", pairs, values).astype(np.int32))
        assert np.array_equal(out.values[1], np.einsum("rk,tk->tr", pairs[0], values[:, 0]).astype(np.int32))


def test_integer_verbs() -> None:
    rng = np.random.default_rng(2)
    panel, x = rng.integers(0, kernels.LARGEST + 1, (LANES, 4)).astype(np.uint8), tokens_of_bytes(rng)
    x[:, 4:] = 0
    x[:, 2:4] = 0  # the bytes are read as an i32 too; keep it small
    vector = rng.integers(-63, 64, LANES).astype(np.int32)
    out = Region(np.zeros(19 * LANES + 2), np.int32)
    regions = Region(panel, np.uint8), Region(x, np.uint8), Region(vector, np.int32)
    kernels.integer_tiles(regions[0].address, regions[1].address, STRIDE, regions[2].address, out.address)
    acc = np.einsum("rk,tk->tr", panel.astype(np.int32), x[:, :4].view(np.int8).astype(np.int32))
    splats = np.ascontiguousarray(x[:, :4]).view(np.int32)
    expected = [acc, acc + acc * vector, acc - 3 * acc, acc - 5 * splats, acc - (splats >> 3), acc]
    got = out.values[: 18 * LANES].reshape(6, TOKENS, LANES)
    for tile, wanted in zip(got, expected, strict=True):
        assert np.array_equal(tile, wanted)
    assert np.array_equal(out.values[18 * LANES : 19 * LANES], acc[2])
    assert out.values[19 * LANES] == TOKENS


def test_float_verbs() -> None:
    rng = np.random.default_rng(3)
    tile, vector = rng.standard_normal((TOKENS, LANES)), rng.standard_normal(LANES)
    tile, vector = tile.astype(np.float32), vector.astype(np.float32)
    rows = np.zeros((TOKENS, STRIDE // 4), np.float32)
    rows[:, :16] = rng.standard_normal((TOKENS, 16))
    panel = rng.integers(0, kernels.LARGEST + 1, (LANES, 4)).astype(np.uint8)
    out = Region(np.zeros((4, TOKENS, LANES)), np.float32)
    regions = [Region(a, a.dtype, 1) for a in (tile, panel, vector, rows)]
    kernels.float_tiles(*(region.address for region in regions), STRIDE, out.address)
    splat, doubled, zeros, accumulated = out.values
    # A product of two f32 is exact in f64, where the sum is rounded: then to f32, at most 0.501 units from exact.
    exact = tile.astype(np.float64)
    wide = vector.astype(np.float64)
    np.testing.assert_allclose(splat, wide * rows[:, :1] + exact, rtol=2**-23, atol=1e-30)
    assert same_bits(doubled, tile + tile)
    assert not zeros.any()
    sums = np.einsum("rk,tk->tr", panel.astype(np.int64), rows.view(np.int8)[:, :4].astype(np.int64))
    factor = (vector * rows[:, :1]).astype(np.float64)  # rounded to f32, as the verb says
    np.testing.assert_allclose(accumulated, factor * sums + exact, rtol=2**-23, atol=1e-30)


def test_gathering_turns_rows_on_their_side() -> None:
    rng = np.random.default_rng(5)
    for stride in (16, 18, 210, 1001):
        rows = rng.integers(0, 256, (LANES - 1) * stride + 16).astype(np.uint8)
        region = Region(rows, np.uint8, 1)
        out = Region(np.zeros(256 + 64), np.uint8)
        kernels.gathered(region.address, stride, out.address)
        table = np.stack([rows[r * stride : r * stride + 16] for r in range(LANES)])
        columns = out.values[:256].reshape(4, LANES, 4)
        for c in range(4):
            assert np.array_equal(columns[c], table[:, 4 * c : 4 * c + 4])
        assert np.array_equal(out.values[256:].reshape(LANES, 4), table[:, :4])
