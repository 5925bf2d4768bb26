"""RMSNorm against its float64 definition, and the forms it writes on the way out."""

import numpy as np
import numpy.typing as npt
import pytest
from kernel_memory import Region, record, run_op, same_bits

from woolly_worker.kernels import rmsnorm
from woolly_worker.kernels.activations import Activation, padded, row_bytes
from woolly_worker.kernels.quantize import quantize_q8, quantize_q8k
from woolly_worker.kernels.rmsnorm import rmsnorm_reference, rmsnorm_row
from woolly_worker.kernels.step import LOGIT_ROWS, N_LOGIT_ROWS, N_TOKENS

Floats = npt.NDArray[np.float32]
EPS = np.float32(1e-5)


def padded_rows(x: Floats) -> Floats:
    rows = np.zeros((*x.shape[:-1], padded(x.shape[-1])), np.float32)
    rows[..., : x.shape[-1]] = x
    return rows


def one_row(x: Floats, weight: Floats, offset: int = 0, eps: np.float32 = EPS) -> Floats:
    row, w = Region(padded_rows(x), np.float32, offset), Region(padded_rows(weight), np.float32, offset)
    out = Region(np.ones(padded(len(x))), np.float32, offset)
    rmsnorm_row(row.address, w.address, len(x), eps, out.address)
    assert not out.values[len(x) :].any()  # the padding stays zero
    return out.values[: len(x)]


def assert_close(got: Floats, x: Floats, weight: Floats, eps: np.float32 = EPS) -> None:
    exact = rmsnorm_reference(x, weight.astype(np.float64), float(eps))
    assert np.array_equal(got == 0, exact == 0)
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) / exact - 1)
    assert np.nanmax(error, initial=0) < 2e-6


@pytest.mark.parametrize("offset", [0, 4, 1])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 64, 172, 1000, 4096, 8192])
def test_one_row(n: int, offset: int) -> None:
    rng = np.random.default_rng(n)
    weight = rng.uniform(0.1, 2, n).astype(np.float32)
    for x in (rng.standard_normal(n), rng.standard_normal(n) * 1e4, rng.standard_normal(n) * 1e-4):
        assert_close(one_row(x.astype(np.float32), weight, offset), x.astype(np.float32), weight)


@pytest.mark.parametrize("n", [16, 8192])
@pytest.mark.parametrize("value", [1 / 3, 0.1, 0.7, 1e-3, 1e15])
def test_equal_values_round_the_same_way_every_time(n: int, value: float) -> None:
    """The worst for a sum of squares: its rounding errors do not cancel. 512 additions in a lane for n = 8192."""
    x, weight = np.full(n, value, np.float32), np.ones(n, np.float32)
    exact = rmsnorm_reference(x, weight.astype(np.float64), float(EPS))
    assert np.abs(one_row(x, weight).astype(np.float64) / exact - 1).max() < 5e-6


def test_zeros_and_outliers() -> None:
    weight = np.ones(64, np.float32)
    assert not one_row(np.zeros(64, np.float32), weight).any()
    x = np.zeros(64, np.float32)
    x[5] = -1e6
    assert_close(one_row(x, weight), x, weight)
    small = np.full(64, 1e-30, np.float32)  # its square vanishes beside eps
    assert_close(one_row(small, weight), small, weight)


def test_what_is_not_a_number_is_everywhere() -> None:
    x = np.ones(64, np.float32)
    x[3] = np.nan
    assert np.isnan(one_row(x, np.ones(64, np.float32))).all()


def test_a_row_may_be_normalised_in_place() -> None:
    x = np.random.default_rng(1).standard_normal(96).astype(np.float32)
    weight = np.ones(96, np.float32)
    row, w = Region(x, np.float32), Region(weight, np.float32)
    rmsnorm_row(row.address, w.address, 96, EPS, row.address)
    assert same_bits(row.values, one_row(x, weight))


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("n_members", [1, 3])
def test_the_operation(gather: bool, n_members: int) -> None:
    """All tokens in order, or those whose logits are wanted; with both quantised forms."""
    rng = np.random.default_rng(2)
    n_tokens, n = 7, 512
    x, weight = rng.standard_normal((n_tokens, n)).astype(np.float32), rng.uniform(0.5, 1.5, n).astype(np.float32)
    wanted = np.array([6, 2, 2, 0], np.int32) if gather else np.arange(n_tokens, dtype=np.int32)
    stride, q8k_bytes, q8_bytes = 4 * n + 64, row_bytes(Activation.Q8K, n), row_bytes(Activation.Q8, n)
    rows = np.zeros((n_tokens, stride // 4), np.float32)
    rows[:, :n] = x
    out = Region(np.zeros((len(wanted), stride // 4)), np.float32)
    q8k = Region(np.zeros((len(wanted), q8k_bytes)), np.uint8)
    q8 = Region(np.zeros((len(wanted), q8_bytes)), np.uint8)
    args = record(
        rmsnorm.NORM_FIELDS,
        {
            rmsnorm.X: Region(rows, np.float32).address,
            rmsnorm.X_STRIDE: stride,
            rmsnorm.WEIGHT: Region(weight, np.float32).address,
            rmsnorm.N: n,
            rmsnorm.EPS: Region(EPS, np.float32).address,
            rmsnorm.OUT_F32: out.address,
            rmsnorm.OUT_F32_STRIDE: stride,
            rmsnorm.OUT_Q8K: q8k.address,
            rmsnorm.OUT_Q8K_STRIDE: q8k_bytes,
            rmsnorm.OUT_Q8: q8.address,
            rmsnorm.OUT_Q8_STRIDE: q8_bytes,
            rmsnorm.FORMS: Activation.Q8K | Activation.Q8,
            rmsnorm.COUNT_FIELD: N_LOGIT_ROWS if gather else N_TOKENS,
            rmsnorm.GATHER: int(gather),
        },
    )
    logit_rows = Region(wanted, np.int32)
    step = {N_TOKENS: n_tokens, N_LOGIT_ROWS: len(wanted), LOGIT_ROWS: logit_rows.address}
    run_op(rmsnorm.norm, args, step, n_members)
    for i, t in enumerate(wanted):
        row = one_row(x[t], weight)
        assert same_bits(out.values[i, :n], row)
        for quantizer, region, n_bytes in ((quantize_q8k, q8k, q8k_bytes), (quantize_q8, q8, q8_bytes)):
            expected = Region(np.zeros(n_bytes), np.uint8)
            quantizer(Region(row, np.float32).address, n, expected.address)
            assert np.array_equal(region.values[i], expected.values)
