"""exp and silu over sixteen lanes, made of IEEE operations only, so that every machine computes the same bits.

    exp(x) = 2**n * p(r),   n = round(x / ln 2),   r = x - n ln 2 in two parts,   |r| <= ln(2) / 2

p is the Taylor polynomial of degree 7 in Horner form; its remainder, 0.3466**8 / 8!, is below 6e-9.
Accuracy: relative error below 2e-7 for -87 <= x <= 88. Below -87 the result is 0 (no subnormals), above 88 it is
exp(88).
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    add_to_exponent,
    div,
    fma,
    maximum,
    minimum,
    mul,
    negate,
    round_to_i32,
    splat_f32x16,
    to_f32,
    zero_where_less,
)

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693145751953125)  # 16 significant bits: n * LN2_HIGH is exact for |n| < 2**8
LN2_LOW = np.float32(1.42860682030941723e-6)
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)


def silu_reference(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """x * sigmoid(x)."""
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


@inline
def exp(x):
    clamped = minimum(maximum(x, splat_f32x16(LOWEST)), splat_f32x16(HIGHEST))
    n = round_to_i32(mul(clamped, splat_f32x16(LOG2_E)))
    nf = to_f32(n)
    r = fma(negate(nf), splat_f32x16(LN2_HIGH), clamped)
    r = fma(negate(nf), splat_f32x16(LN2_LOW), r)
    p = splat_f32x16(np.float32(1.0 / 5040.0))
    p = fma(p, r, splat_f32x16(np.float32(1.0 / 720.0)))
    p = fma(p, r, splat_f32x16(np.float32(1.0 / 120.0)))
    p = fma(p, r, splat_f32x16(np.float32(1.0 / 24.0)))
    p = fma(p, r, splat_f32x16(np.float32(1.0 / 6.0)))
    p = fma(p, r, splat_f32x16(np.float32(0.5)))
    p = fma(p, r, splat_f32x16(np.float32(1.0)))
    p = fma(p, r, splat_f32x16(np.float32(1.0)))
    return zero_where_less(x, LOWEST, add_to_exponent(p, n))


@inline
def silu(x):
    """x / (1 + exp(-x))."""
    return div(x, add(splat_f32x16(np.float32(1)), exp(negate(x))))
