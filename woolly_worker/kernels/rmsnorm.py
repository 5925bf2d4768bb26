"""RMSNorm, with the next matrices' activations made on the way out.

    y[i] = x[i] * weight[i] / sqrt(mean(x**2) + eps)

Source: Zhang & Sennrich 2019, eq. 4. Accuracy: relative error below 2e-6 against rmsnorm_reference, n_embd <= 8192;
below 5e-6 for a row of equal values, where the rounding errors of the squares' sum cannot cancel.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.quantize import into_q8, into_q8k
from woolly_worker.kernels.simd import (
    fetch_add,
    fma,
    hsum,
    load_f32,
    load_f32x16,
    mul,
    splat_f32x16,
    sqrt_f32,
    store,
    zero_f32x16,
)
from woolly_worker.kernels.step import LOGIT_ROWS, entry, field

# Fields of the argument record. Rows are padded with zeros to a multiple of 16 floats, and so is the weight.
X = 0  # address of token 0's row
X_STRIDE = 1
WEIGHT = 2
N = 3  # n_embd
EPS = 4  # address of one f32
OUT_F32 = 5  # address of token 0's row, f32: always written
OUT_F32_STRIDE = 6
OUT_Q8K = 7
OUT_Q8K_STRIDE = 8
OUT_Q8 = 9
OUT_Q8_STRIDE = 10
FORMS = 11  # Activation bits: which quantised forms to write
COUNT_FIELD = 12  # which field of the step record counts the tokens
GATHER = 13  # 1: output row i comes from token logit_rows[i]
NORM_FIELDS = 14

WANTS_Q8K, WANTS_Q8 = int(Activation.Q8K), int(Activation.Q8)


Array = npt.NDArray[np.float64]


def rmsnorm_reference(x: Array, weight: Array, eps: float) -> Array:
    """The definition: NumPy, float64 inside, never compiled."""
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


@inline
def _normalize(x, weight, n, eps, out):
    """One row. x, weight and out are addresses of f32 rows padded with zeros to a multiple of 16; out may be x."""
    squares = zero_f32x16()
    for k in range(0, n, 16):
        v = load_f32x16(x + 4 * k)
        squares = fma(v, v, squares)
    scale = splat_f32x16(np.float32(1) / sqrt_f32(hsum(squares) / np.float32(n) + eps))
    for k in range(0, n, 16):
        store(out + 4 * k, mul(mul(load_f32x16(x + 4 * k), scale), load_f32x16(weight + 4 * k)))


@kernel
def rmsnorm_row(x, weight, n, eps, out):
    """_normalize for Python."""
    _normalize(x, weight, n, eps, out)


@inline
def quantize_row(args, first_field, row, n, i, forms):
    """Write row i's quantised forms; the record's four fields from `first_field` on say where."""
    if forms & WANTS_Q8K:
        into_q8k(row, n, field(args, first_field) + i * field(args, first_field + 1))
    if forms & WANTS_Q8:
        into_q8(row, n, field(args, first_field + 2) + i * field(args, first_field + 3))


@op
def norm(args, step, member, counter):
    """A unit of work is one token."""
    n_tokens, n, forms = field(step, field(args, COUNT_FIELD)), field(args, N), field(args, FORMS)
    eps = load_f32(field(args, EPS))
    while True:
        i = fetch_add(counter, 1)
        if i >= n_tokens:
            return
        source = entry(field(step, LOGIT_ROWS), i) if field(args, GATHER) else i
        row = field(args, OUT_F32) + i * field(args, OUT_F32_STRIDE)
        _normalize(field(args, X) + source * field(args, X_STRIDE), field(args, WEIGHT), n, eps, row)
        quantize_row(args, OUT_Q8K, row, n, i, forms)
