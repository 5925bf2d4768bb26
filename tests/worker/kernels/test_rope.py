"""The table of angles against the C library's sine and cosine, and the turning of heads against the definition."""

import math
from decimal import Decimal, getcontext

import numpy as np
import numpy.typing as npt
import pytest
from kernel_memory import Region, record, run_op, same_bits
from kv_pages import Pages

from woolly_worker.kernels import rope
from woolly_worker.kernels.kv import blocks
from woolly_worker.kernels.rope import inverse_frequencies, rope_table
from woolly_worker.kernels.step import BLOCK_TABLES, BLOCKS_PER_SLOT, N_TOKENS, POSITIONS, SLOTS
from woolly_worker.memory import kv_cache
from woolly_worker.memory.kv_cache import KV_TYPES, KVLayout, KVType, padded_head_dim

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def expected_table(angles: Doubles, scale: float = 1.0) -> Doubles:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * scale


def assert_table(table: Floats, angles: Doubles, scale: float = 1.0) -> None:
    """Half a unit in the last place of f32, and 1e-12 for the sine and for the last bits of the angle."""
    exact = expected_table(angles, scale)
    assert table.shape == exact.shape
    assert (np.abs(table - exact) <= np.spacing(np.abs(exact).astype(np.float32)) * 0.5001 + 1e-12).all()


@pytest.mark.parametrize("n_dims", [2, 8, 80, 128])
@pytest.mark.parametrize("base", [10000.0, 500000.0, 1e6])
def test_frequencies_are_correctly_rounded(n_dims: int, base: float) -> None:
    getcontext().prec = 60
    exact = [Decimal(base) ** (Decimal(-2 * i) / n_dims) for i in range(n_dims // 2)]
    assert inverse_frequencies(base, n_dims).tolist() == [float(value) for value in exact]


@pytest.mark.parametrize("n_dims", [2, 8, 64, 80, 128])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_plain_angles(n_dims: int, base: float) -> None:
    angles = np.arange(3000.0)[:, None] * inverse_frequencies(base, n_dims)
    assert_table(rope_table(3000, n_dims, base), angles)


def test_positions_up_to_two_to_the_twenty() -> None:
    n_ctx = 2**20
    table = rope_table(n_ctx, 4, 10000.0)
    rows = np.unique(np.concatenate([np.arange(n_ctx - 5000, n_ctx), np.arange(0, n_ctx, 997)]))
    assert_table(table[rows], rows[:, None] * inverse_frequencies(10000.0, 4))


def test_the_own_sine_is_as_good_as_the_c_library_s() -> None:
    """Absolute error below 1e-13, against math.sin, over every quarter turn and close to its borders."""
    rng = np.random.default_rng(1)
    borders = (np.arange(0, 600_000, 7.0)[:, None] * (math.pi / 4) + np.array([-1e-9, 0.0, 1e-9])).ravel()
    angles = np.abs(np.concatenate([borders, rng.uniform(0, 2**20, 50_000), [0.0]]))
    sines, cosines = rope._sine_and_cosine(angles)
    assert np.abs(sines - [math.sin(a) for a in angles]).max() < 1e-13
    assert np.abs(cosines - [math.cos(a) for a in angles]).max() < 1e-13


def test_linear_scaling_divides_positions() -> None:
    angles = np.arange(500.0)[:, None] * inverse_frequencies(10000.0, 64) / 4
    assert_table(rope_table(500, 64, 10000.0, factor=4.0), angles)


def test_frequency_factors_divide_frequencies() -> None:
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    angles = np.arange(500.0)[:, None] * (inverse_frequencies(500000.0, 64) / factors)
    assert_table(rope_table(500, 64, 500000.0, freq_factors=factors), angles)


def yarn_by_llama_cpp(n_ctx: int, n_dims: int, base: float, factor: float, n_orig: int) -> tuple[Doubles, float]:
    """`rope_yarn` and `ggml_rope_yarn_corr_dims` of llama.cpp, one number at a time; beta_fast 32, beta_slow 1."""

    def corr_dim(n_rot: float) -> float:
        return n_dims * math.log(n_orig / (n_rot * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0.0, math.floor(corr_dim(32.0))), min(n_dims - 1.0, math.ceil(corr_dim(1.0)))
    angles = np.zeros((n_ctx, n_dims // 2))
    for position in range(n_ctx):
        for i in range(n_dims // 2):
            extrapolated = position * base ** (-2 * i / n_dims)
            mix = 1 - min(1, max(0, (i - low) / max(0.001, high - low)))
            angles[position, i] = extrapolated / factor * (1 - mix) + extrapolated * mix
    return angles, 1 + 0.1 * math.log(factor)


@pytest.mark.parametrize(("n_dims", "base", "factor", "n_orig"), [(64, 10000.0, 4.0, 64), (128, 1e6, 8.0, 4096)])
def test_yarn(n_dims: int, base: float, factor: float, n_orig: int) -> None:
    angles, scale = yarn_by_llama_cpp(200, n_dims, base, factor, n_orig)
    table = rope_table(
        200, n_dims, base, factor=factor, attn_factor=0.9, ext_factor=1.0, original_context_length=n_orig
    )
    assert_table(table, angles, 0.9 * scale)


def turned(x: Floats, table: Floats) -> Floats:
    """Heads (..., head_dim) turned by the angles of one position: one product rounded, then one fma.

    A product of two f32 is exact in f64, and so is nearly every sum of such a product and an f32.
    """
    a, b = x[..., 0::2], x[..., 1::2]
    cosine, sine = table[:, 0], table[:, 1]
    result = np.empty_like(x)
    result[..., 0::2] = a.astype(np.float64) * cosine - (b * sine).astype(np.float64)
    result[..., 1::2] = b.astype(np.float64) * cosine + (a * sine).astype(np.float64)
    return result


def test_blocks_are_laid_out_as_the_cache_says() -> None:
    assert (blocks.BLOCK_TOKENS, blocks.PANEL_TOKENS) == (kv_cache.BLOCK_TOKENS, kv_cache.PANEL_TOKENS)


TABLES = np.array([[5, 0, 7], [2, 6, 1]], np.int32)  # blocks of two sequences lie about in no order


class Filing:
    """One step of the operation: tokens of these places (slot, position), with queries, keys and values (n, heads,
    head_dim)."""

    def __init__(self, dtype: KVType, places: list[tuple[int, int]], q: Floats, k: Floats, v: Floats) -> None:
        (n_tokens, n_head, head_dim), n_head_kv = q.shape, k.shape[1]
        self.table = rope_table(96, head_dim, 10000.0)
        self.layout = KVLayout(1, n_head_kv, padded_head_dim(head_dim, dtype), dtype)
        self.pages = Pages(self.layout, 8, TABLES)
        self.q, self.k, self.v = (Region(x, np.float32, 4) for x in (q, k, v))
        args = record(
            rope.ROPE_FIELDS,
            {
                rope.Q: self.q.address,
                rope.Q_STRIDE: 4 * n_head * head_dim,
                rope.K: self.k.address,
                rope.V: self.v.address,
                rope.KV_STRIDE: 4 * n_head_kv * head_dim,
                rope.N_HEAD: n_head,
                rope.N_HEAD_KV: n_head_kv,
                rope.HEAD_DIM: head_dim,
                rope.TABLE: Region(self.table, np.float32, 4).address,
                rope.KV_BASE: self.pages.region.address,
                rope.HEAD_BLOCK_BYTES: self.layout.head_block_bytes,
                rope.PADDED_DIM: self.layout.head_dim,
            },
        )
        step = {
            N_TOKENS: n_tokens,
            POSITIONS: Region([position for _, position in places], np.int32).address,
            SLOTS: Region([slot for slot, _ in places], np.int32).address,
            BLOCK_TABLES: self.pages.table_region.address,
            BLOCKS_PER_SLOT: TABLES.shape[1],
        }
        run_op(getattr(rope, f"rope_and_file_{dtype}"), args, step, n_members=2)


@pytest.mark.parametrize("dtype", KV_TYPES)
@pytest.mark.parametrize("head_dim", [2, 8, 16, 24, 48, 64, 80, 128])
@pytest.mark.parametrize(("n_head", "n_head_kv"), [(1, 1), (4, 2), (12, 1)])
def test_queries_are_turned_and_keys_and_values_filed(
    dtype: KVType, head_dim: int, n_head: int, n_head_kv: int
) -> None:
    rng = np.random.default_rng(head_dim)
    # Given tokens of two sequences, on both sides of every border,
    places = [(0, p) for p in (0, 1, 15, 16, 31, 32, 95)] + [(1, p) for p in (31, 33, 64)]
    q = rng.standard_normal((len(places), n_head, head_dim)).astype(np.float32)
    k, v = rng.standard_normal((2, len(places), n_head_kv, head_dim)).astype(np.float32)
    # when they go through the operation,
    filing = Filing(dtype, places, q, k, v)
    # then every head is turned by its position, values are as they were,
    for t, (_, position) in enumerate(places):
        assert same_bits(filing.q.values[t], turned(q[t], filing.table[position]))
        assert same_bits(filing.k.values[t], turned(k[t], filing.table[position]))
    assert same_bits(filing.v.values, v)
    # and each key and value lies in its place, with nothing written anywhere else.
    expected = Pages(filing.layout, 8, TABLES)
    for t, (slot, position) in enumerate(places):
        for head in range(n_head_kv):
            expected.put(slot, position, head, turned(k[t, head], filing.table[position]), v[t, head])
    assert same_bits(filing.pages.region.values, expected.region.values)


def test_what_f16_cannot_hold_is_kept_as_the_largest_that_it_can() -> None:
    zeros = np.zeros((1, 1, 16), np.float32)
    v = zeros.copy()
    v[0, 0, :7] = [65504, 65519, 7e4, -7e4, np.inf, -np.inf, np.nan]
    filing = Filing("f16", [(0, 3)], zeros, zeros, v)
    values = filing.pages.region.values.view(np.float16).reshape(8, 2, 32, 16)
    assert values[TABLES[0, 0], 1, 3, :6].tolist() == [65504, 65504, 65504, -65504, 65504, -65504]
    assert np.isnan(values[TABLES[0, 0], 1, 3, 6])


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_scales_stay_finite(dtype: KVType) -> None:
    """A group of huge values has the largest scale that f16 can hold, a NaN one that is NaN, both for itself alone."""
    zeros = np.zeros((3, 1, 64), np.float32)
    v = zeros.copy()
    v[0, 0, 5], v[1, 0, 5], v[2, 0, 40] = 1e9, -np.inf, np.nan
    filing = Filing(dtype, [(0, 0), (0, 1), (0, 2)], zeros, zeros, v)
    start = TABLES[0, 0] * filing.layout.head_block_bytes
    scales = filing.pages.region.values[start : start + filing.layout.head_block_bytes][-128:].view(np.float16)
    groups = np.abs(scales.reshape(2, 32)[:, :4].astype(np.float64))
    assert groups[0].tolist() == [65504, 65504, 0, 0]
    assert groups[1, [0, 1, 3]].tolist() == [0, 0, 0]
    assert np.isnan(groups[1, 2])
