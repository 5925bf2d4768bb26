"""exp and silu, and SwiGLU made of them: the accuracy that their docstrings promise, and the ends of the range."""

import element_kernels as kernels
import numpy as np
import numpy.typing as npt
import pytest
from kernel_memory import Region, record, run_op

from woolly_worker.kernels import swiglu
from woolly_worker.kernels.activations import Activation, row_bytes
from woolly_worker.kernels.exponential import silu_reference
from woolly_worker.kernels.quantize import quantize_q8, quantize_q8k
from woolly_worker.kernels.step import N_TOKENS

Floats = npt.NDArray[np.float32]


def apply(kernel: object, x: npt.ArrayLike) -> Floats:
    values = np.asarray(x, np.float32)
    out = Region(np.zeros(-(-len(values) // 16) * 16), np.float32)
    padded = np.zeros(len(out.values), np.float32)
    padded[: len(values)] = values
    kernel(Region(padded, np.float32).address, len(padded), out.address)
    return out.values[: len(values)]


def relative_error(got: Floats, exact: npt.NDArray[np.float64]) -> float:
    return float(np.max(np.abs(got.astype(np.float64) / exact - 1)))


def every_range() -> Floats:
    """-87 to 88 evenly, closely around 0 and around the points where the rounding to a power of two changes."""
    rng = np.random.default_rng(1)
    halves = (np.arange(-125, 126) + 0.5) * np.log(2)
    near = (halves[:, None] * (1 + np.arange(-3, 4) * 2.0**-23)).ravel()
    values = [np.linspace(-87, 88, 200_001), rng.standard_normal(20_000) * 1e-3, near, [-87, 88, 0, -0.0, 1e-45]]
    every = np.concatenate(values).astype(np.float32)
    return every[(every >= -87) & (every <= 88)]


def test_exp_is_accurate_to_2e_7() -> None:
    x = every_range()
    assert relative_error(apply(kernels.exp_row, x), np.exp(x.astype(np.float64))) < 2e-7


def test_exp_at_the_ends_of_its_range() -> None:
    below = np.nextafter(np.float32(-87), np.float32(-np.inf))
    top = apply(kernels.exp_row, [88])[0]
    got = apply(kernels.exp_row, [below, -88, -1000, -np.inf, 88.1, 1000, np.inf, np.nan, 0, -0.0])
    assert got.tolist() == [0, 0, 0, 0, top, top, top, 0, 1, 1]


def test_silu_is_accurate() -> None:
    """Three more roundings than exp: sum, quotient, and that of 1 + exp to f32, each 6e-8."""
    x = every_range()
    x = x[(x > -87) & (np.abs(x) > 1e-37)]  # half of a smaller one is not a normal number
    assert relative_error(apply(kernels.silu_row, x), silu_reference(x.astype(np.float64))) < 4e-7


def test_silu_far_from_zero() -> None:
    """Below -88 the exponential stays at exp(88), so what is left is below 1e-35 where it should be smaller still."""
    x = np.array([-88, -89, -100, -1000, 88, 100, 1e30, 3e38], np.float32)
    got = apply(kernels.silu_row, x)
    assert (np.abs(got[:4]) < 1e-35).all()
    assert np.array_equal(got[4:], x[4:])
    ends = apply(kernels.silu_row, [0, -0.0, np.inf, np.nan])
    assert ends[:3].tolist() == [0, 0, np.inf]
    assert np.isnan(ends[3])


def swiglu_record(gate: Region, up: Region, stride: int, n: int, forms: dict[int, tuple[Region, int]]) -> object:
    fields = {swiglu.GATE: gate.address, swiglu.UP: up.address, swiglu.STRIDE: stride, swiglu.N: n}
    for form, (out, out_stride) in forms.items():
        first = swiglu.OUT_Q8K if form == Activation.Q8K else swiglu.OUT_Q8
        fields[first], fields[first + 1] = out.address, out_stride
        fields[swiglu.FORMS] = fields.get(swiglu.FORMS, 0) + int(form)
    return record(swiglu.SWIGLU_FIELDS, fields)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 172, 512])
@pytest.mark.parametrize("n_members", [1, 2])
def test_swiglu_rows(n: int, n_members: int) -> None:
    rng = np.random.default_rng(n)
    n_tokens, width = 5, -(-n // 16) * 16
    gate, up = np.zeros((2, n_tokens, width), np.float32)
    gate[:, :n], up[:, :n] = rng.standard_normal((2, n_tokens, n)) * 4
    gate_region, up_region = Region(gate, np.float32), Region(up, np.float32)
    args = swiglu_record(gate_region, up_region, 4 * width, n, {})
    run_op(swiglu.swiglu, args, {N_TOKENS: n_tokens}, n_members)
    exact = silu_reference(gate[:, :n].astype(np.float64)) * up[:, :n]
    assert relative_error(gate_region.values[:, :n], exact) < 1e-6
    assert not gate_region.values[:, n:].any()


@pytest.mark.parametrize("forms", [(Activation.Q8K,), (Activation.Q8,), (Activation.Q8K, Activation.Q8)])
@pytest.mark.parametrize("op", ["swiglu", "quantize"])
def test_the_forms_are_those_of_the_result(forms: tuple[Activation, ...], op: str) -> None:
    """`quantize` takes the rows as they are, `swiglu` what it has made of them."""
    rng = np.random.default_rng(3)
    n_tokens, n = 4, 512
    gate, up = rng.standard_normal((2, n_tokens, n)).astype(np.float32)
    gate_region, up_region = Region(gate, np.float32), Region(up, np.float32)
    sizes = {form: row_bytes(form, n) for form in (Activation.Q8K, Activation.Q8)}
    quantizers = {Activation.Q8K: quantize_q8k, Activation.Q8: quantize_q8}
    outs = {form: Region(np.zeros((n_tokens, sizes[form] + 64)), np.uint8) for form in forms}
    strides = {int(form): (out, sizes[form] + 64) for form, out in outs.items()}
    args = swiglu_record(gate_region, up_region, 4 * n, n, strides)
    run_op(getattr(swiglu, op), args, {N_TOKENS: n_tokens})
    rows = gate_region.values
    assert np.array_equal(rows, gate) == (op == "quantize")
    for form, out in outs.items():
        for t in range(n_tokens):
            expected = Region(np.zeros(sizes[form] + 64), np.uint8)
            quantizers[form](Region(rows[t], np.float32).address, n, expected.address)
            assert np.array_equal(out.values[t], expected.values)
