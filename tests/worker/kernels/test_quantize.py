"""Activations to int8 against their definition: equal in every byte of the record."""

import numpy as np
import numpy.typing as npt
import pytest
from kernel_memory import Region, same_bits

from woolly_worker.kernels.activations import (
    Q8_BYTES,
    Q8_RUN,
    Q8_SCALES,
    Q8_SUMS,
    Q8_VALUES,
    Q8K_BYTES,
    Q8K_SCALE,
    Q8K_SUM,
    Q8K_SUMS16,
    Q8K_SUMS32,
    Q8K_VALUES,
    Activation,
    padded,
    row_bytes,
)
from woolly_worker.kernels.quantize import quantize_q8, quantize_q8k, quantize_reference

Rows = npt.NDArray[np.float32]


def rows_of(block: int) -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    normal = rng.standard_normal((7, block)).astype(np.float32)
    one = np.zeros((1, block), np.float32)
    one[0, block - 1] = -3
    ties = (np.arange(block, dtype=np.float32) % 254 - 127) / 2  # 127 / 63.5 = 2: every second value is a tie
    return {
        "normal": normal,
        "large": normal * np.float32(1e37),
        "small": normal * np.float32(1e-34),
        "mixed": normal * (10.0 ** rng.integers(-20, 20, (7, block))).astype(np.float32),
        "zeros": np.zeros((2, block), np.float32),
        "negative zeros": -np.zeros((2, block), np.float32),
        "one value": one,
        "all 127": np.ones((1, block), np.float32),
        "all -127": -np.ones((1, block), np.float32),
        "ties": ties[None],
        "largest float": np.full((1, block), np.finfo(np.float32).max),
        "too small for a scale": normal * np.float32(1e-38),
        "subnormal": normal * np.float32(1e-42),
        "smallest": np.full((1, block), 1e-45, np.float32),
    }


@pytest.mark.parametrize("offset", [0, 4, 1])
@pytest.mark.parametrize("name", rows_of(32))
def test_q8k_records(name: str, offset: int) -> None:
    x = rows_of(Q8K_VALUES)[name]
    q, d = quantize_reference(x, Q8K_VALUES)
    out = Region(np.zeros((len(x), Q8K_BYTES)), np.uint8, offset)
    quantize_q8k(Region(x, np.float32, offset).address, x.size, out.address)
    got = out.values
    assert np.array_equal(got[:, :Q8K_VALUES].view(np.int8), q)
    assert same_bits(np.ascontiguousarray(got[:, Q8K_SCALE : Q8K_SCALE + 4]).view(np.float32)[:, 0], d)
    total = np.ascontiguousarray(got[:, Q8K_SUM : Q8K_SUM + 4]).view(np.int32)[:, 0]
    assert np.array_equal(total, q.astype(np.int32).sum(axis=1))
    sums32 = np.ascontiguousarray(got[:, Q8K_SUMS32:Q8K_SUMS16]).view(np.int16)
    sums16 = np.ascontiguousarray(got[:, Q8K_SUMS16:]).view(np.int16)
    assert np.array_equal(sums16, q.astype(np.int16).reshape(-1, 16, 16).sum(axis=2))
    assert np.array_equal(sums32, q.astype(np.int16).reshape(-1, 8, 32).sum(axis=2))


@pytest.mark.parametrize("offset", [0, 4, 1])
@pytest.mark.parametrize("name", rows_of(32))
@pytest.mark.parametrize("n_runs", [1, 16, 21])
def test_q8_records(name: str, offset: int, n_runs: int) -> None:
    x = np.resize(rows_of(Q8_RUN)[name], (n_runs, Q8_RUN))
    q, d = quantize_reference(x, Q8_RUN)
    out = Region(np.zeros((-(-n_runs // 16), Q8_BYTES)), np.uint8, offset)
    quantize_q8(Region(x, np.float32, offset).address, x.size, out.address)
    values, scales, sums = (
        np.ascontiguousarray(out.values[:, start:end]).view(kind).reshape(-1)
        for start, end, kind in (
            (0, Q8_VALUES, np.int8),
            (Q8_SCALES, Q8_SUMS, np.float32),
            (Q8_SUMS, Q8_BYTES, np.int32),
        )
    )
    assert np.array_equal(values[: x.size], q.reshape(-1))
    assert same_bits(scales[:n_runs], d)
    assert np.array_equal(sums[:n_runs], 128 * q.astype(np.int32).sum(axis=1))
    assert not values[x.size :].any()
    assert not scales[n_runs:].any()
    assert not sums[n_runs:].any()


@pytest.mark.parametrize("block", [Q8_RUN, Q8K_VALUES])
def test_values_are_within_half_a_step(block: int) -> None:
    """|x - d q| <= d / 2, and a few units in the last place of x for the two roundings of the factor and of d."""
    for name, x in rows_of(block).items():
        q, d = quantize_reference(x, block)
        assert q.min() >= -127, name
        error = np.abs(x.astype(np.float64) - d[:, None].astype(np.float64) * q)
        largest = np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
        assert (error <= largest / 254 + largest * 2**-22 + 1e-36).all(), name


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 17, 31, 255])
def test_what_is_not_finite_is_not_hidden(bad: float, place: int) -> None:
    """The scale is not finite, so every result of this block is not: a broken model shows itself."""
    x = np.random.default_rng(2).standard_normal(Q8K_VALUES).astype(np.float32)
    x[place] = bad
    record = Region(np.zeros(Q8K_BYTES), np.uint8)
    quantize_q8k(Region(x, np.float32).address, Q8K_VALUES, record.address)
    assert not np.isfinite(record.values[Q8K_SCALE : Q8K_SCALE + 4].view(np.float32)[0])
    record = Region(np.zeros(Q8_BYTES), np.uint8)
    quantize_q8(Region(x, np.float32).address, Q8K_VALUES, record.address)
    scales = record.values[Q8_SCALES:Q8_SUMS].view(np.float32)[:8]
    assert np.array_equal(np.isfinite(scales), np.arange(8) != place // 32)


def test_row_sizes() -> None:
    assert [padded(n) for n in (1, 16, 17, 172)] == [16, 16, 32, 176]
    assert row_bytes(Activation.F32, 17) == 4 * 32
    assert row_bytes(Activation.Q8K, 256) == Q8K_BYTES
    assert row_bytes(Activation.Q8K, 512) == 2 * Q8K_BYTES + 64  # an odd number of cache lines
    assert row_bytes(Activation.Q8, 96) == Q8_BYTES + 64
    assert row_bytes(Activation.Q8, 544) == 2 * Q8_BYTES + 64
