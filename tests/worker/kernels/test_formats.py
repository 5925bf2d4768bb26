"""Every tensor type: its bytes as numbers, and one row times one token."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from guarded import ReadOnly
from kernel_memory import Region, same_bits
from quant_blocks import Meaning, columns_to_try, meaning, random_rows

from woolly_worker.gguf.types import SUPPORTED_TYPES, GGMLType
from woolly_worker.kernels.activations import (
    Q8_BYTES,
    Q8_RUN,
    Q8_SCALES,
    Q8_SUMS,
    Q8_VALUES,
    Q8K_BYTES,
    Q8K_SCALE,
    Q8K_VALUES,
    Activation,
    padded,
    row_bytes,
)
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.quantize import quantize_q8, quantize_q8k

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
ALL = sorted(FORMATS)
GOLDEN = [name for name in ALL if FORMATS[name].block > 1]


def golden_key(name: str) -> str:
    """How llama.cpp itself spells a type: q4_K, iq4_xs."""
    return name.lower().replace("_k", "_K")


def activation(format_: Format, x: Floats) -> tuple[Region, Doubles]:
    """Rows of x in the form that a format reads, and the exact numbers that the form stands for."""
    rows = np.atleast_2d(x)
    n = rows.shape[1]
    if format_.activation == Activation.F32:
        region = Region(np.zeros((len(rows), padded(n))), np.float32)
        region.writable.reshape(len(rows), -1)[:, :n] = rows
        return region, rows.astype(np.float64)
    quantizer = {Activation.Q8K: quantize_q8k, Activation.Q8: quantize_q8}[format_.activation]
    n_bytes = row_bytes(format_.activation, n)
    region = Region(np.zeros((len(rows), n_bytes)), np.uint8)
    for t, row in enumerate(rows):
        quantizer(Region(row, np.float32).address, n, region.address + t * n_bytes)
    if format_.activation == Activation.Q8K:
        used = n // Q8K_VALUES * Q8K_BYTES
        records = region.values[:, :used].reshape(len(rows), -1, Q8K_BYTES)
        q, d = as_type(records[..., :Q8K_VALUES], np.int8), as_type(records[..., Q8K_SCALE : Q8K_SCALE + 4], np.float32)
        return region, (q * d).reshape(len(rows), n)
    used = -(-n // Q8_VALUES) * Q8_BYTES
    records = region.values[:, :used].reshape(len(rows), -1, Q8_BYTES)
    q, d = as_type(records[..., :Q8_VALUES], np.int8), as_type(records[..., Q8_SCALES:Q8_SUMS], np.float32)
    return region, (q * np.repeat(d, Q8_RUN, axis=-1)).reshape(len(rows), -1)[:, :n]


def as_type(part: npt.NDArray[np.uint8], kind: type) -> Doubles:
    return np.ascontiguousarray(part).view(kind).astype(np.float64)


def dot_bound(format_: Format, rows: Meaning, x: Doubles) -> Doubles:
    """How far a row's product may lie from the exact one: (n_rows, n_tokens).

    Quantised: inside a block everything is exact. For each block, one or two steps acc = fma(d dx, s, acc), in which
    d dx and s are rounded, and then the sum: 2**-24 each, of that block's terms or of the sum so far; and the parts
    are added up. Floats: n / 16 steps of one rounding, and four folds. (1 + 2**-24)**n is put as 1.01 n 2**-24.
    """
    n_cols = rows.weights.shape[1]
    steps = n_cols / 16 + 5 if format_.block == 1 else 2 * (n_cols / format_.block) + 2 + format_.parts
    return rows.magnitudes @ np.abs(x).T * 1.01 * steps * 2.0**-24 + 1e-37


def test_the_formats_are_those_the_reader_admits() -> None:
    assert set(FORMATS) == {kind.name for kind in SUPPORTED_TYPES}


@pytest.mark.parametrize("name", ALL)
def test_blocks_are_as_large_as_the_file_s(name: str) -> None:
    assert (FORMATS[name].block, FORMATS[name].block_bytes) == (GGMLType[name].block_size, GGMLType[name].block_bytes)
    assert FORMATS[name].name == name


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_dequantize_equals_the_gguf_package(name: str, extreme: bool) -> None:
    """Bit for bit, for any bytes: also where the scale is subnormal, infinite or negative."""
    format_, rng = FORMATS[name], np.random.default_rng(1)
    for n_cols in columns_to_try(format_):
        rows = random_rows(name, 8, n_cols, rng, extreme=extreme)
        expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name]).astype(np.float32)
        for row, numbers in zip(rows, expected, strict=True):
            out = Region(np.zeros(n_cols), np.float32, 4)
            with ReadOnly(row.tobytes()) as source:
                format_.dequantize(source.address, n_cols, out.address)
            assert np.array_equal(out.values, numbers)  # 0 and -0 count as equal
            assert np.allclose(numbers, meaning(name, row[None]).weights[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_dequantize_takes_any_bytes(name: str) -> None:
    """Random bytes throughout: scales are then subnormal, infinite or NaN now and then."""
    format_, rng = FORMATS[name], np.random.default_rng(2)
    n_cols = 4 * format_.block
    rows = rng.integers(0, 256, (300, 4 * format_.block_bytes)).astype(np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name]).astype(np.float32)
    assert not np.isfinite(expected).all()
    for row, numbers in zip(rows, expected, strict=True):
        out = Region(np.zeros(n_cols), np.float32)
        format_.dequantize(Region(row, np.uint8, 1).address, n_cols, out.address)
        assert np.array_equal(out.values, numbers, equal_nan=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_dequantize_equals_llama_cpp(name: str, shared_data: Path) -> None:
    golden = np.load(shared_data / "golden" / "quant-blocks.npz")
    key = golden_key(name)
    blocks, expected = golden[f"{key}.blocks"], golden[f"{key}.dequant"]
    for row, numbers in zip(blocks, expected, strict=True):
        out = Region(np.zeros(256), np.float32)
        FORMATS[name].dequantize(Region(row, np.uint8).address, 256, out.address)
        assert same_bits(out.values, numbers)


@pytest.mark.parametrize("name", GOLDEN)
def test_dot_products_are_close_to_llama_cpp(name: str, shared_data: Path) -> None:
    """Both round the activations to int8. llama.cpp also rounds their scale to f16 for the formats of 32."""
    golden = np.load(shared_data / "golden" / "quant-blocks.npz")
    key = golden_key(name)
    blocks, y, dots = golden[f"{key}.blocks"], golden["y"], golden[f"{key}.dot"]
    format_ = FORMATS[name]
    for row, numbers, expected in zip(blocks, y, dots, strict=True):
        x, _ = activation(format_, numbers)
        got = format_.row_dot(Region(row, np.uint8).address, x.address, 256)
        magnitude = float(meaning(name, row[None]).magnitudes[0] @ np.abs(numbers))
        assert abs(got - expected) <= 2.0**-11 * magnitude + 1e-30


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_row_dot_is_within_its_bound(name: str, extreme: bool) -> None:
    format_, rng = FORMATS[name], np.random.default_rng(3)
    for n_cols in columns_to_try(format_):
        rows = random_rows(name, 6, n_cols, rng, extreme=extreme)
        exact = meaning(name, rows)
        tokens = rng.standard_normal((3, n_cols)).astype(np.float32)
        if extreme:  # every activation is 127 or -127
            tokens = np.stack([np.ones(n_cols), -np.ones(n_cols), rng.choice([-1, 1], n_cols)]).astype(np.float32)
        x, numbers = activation(format_, tokens)
        stride = x.values.nbytes // len(tokens)
        bound = dot_bound(format_, exact, numbers)
        products = exact.weights @ numbers.T
        for r, row in enumerate(rows):
            for t in range(len(tokens)):
                with ReadOnly(row.tobytes()) as source:  # nothing behind the last row is read
                    got = format_.row_dot(source.address, x.address + t * stride, n_cols)
                unaligned = format_.row_dot(Region(row, np.uint8, 1).address, x.address + t * stride, n_cols)
                assert abs(got - products[r, t]) <= bound[r, t], (n_cols, r, t)
                assert got == unaligned


@pytest.mark.parametrize("name", ALL)
def test_zeros_give_zero(name: str) -> None:
    format_ = FORMATS[name]
    n_cols = columns_to_try(format_)[-1]
    rng = np.random.default_rng(4)
    row = Region(random_rows(name, 1, n_cols, rng)[0], np.uint8)
    nothing, _ = activation(format_, np.zeros(n_cols, np.float32))
    assert format_.row_dot(row.address, nothing.address, n_cols) == 0
    empty = Region(np.zeros(len(row.values)), np.uint8)
    something, _ = activation(format_, rng.standard_normal(n_cols).astype(np.float32))
    assert format_.row_dot(empty.address, something.address, n_cols) == 0
