"""Kernels that apply `exp` and `silu` to whole rows, for their tests."""

from woolly_worker.kernels.exponential import exp, silu
from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import load_f32x16, store


@kernel
def exp_row(x, n, out):
    for k in range(0, n, 16):
        store(out + 4 * k, exp(load_f32x16(x + 4 * k)))


@kernel
def silu_row(x, n, out):
    for k in range(0, n, 16):
        store(out + 4 * k, silu(load_f32x16(x + 4 * k)))
