"""f32 activations to int8, in the forms of `activations.py`.

    d = max|x| / 127,   q = round(x * (127 / max|x|)), ties to even

A run of zeros has d = 0 and q = 0, and so has one whose largest value is below 4e-37, where the factor would overflow.
|q| <= 127, so a sum of 16 values fits 16 bits, and -128 never occurs. A value that is not finite makes d not finite,
and with it every result that reads the run.
"""

import numpy as np
import numpy.typing as npt

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
)
from woolly_worker.kernels.jit import inline, kernel
from woolly_worker.kernels.simd import (
    absolute,
    add,
    as_f32x16,
    as_i32x16,
    first_lane,
    hmax,
    hsum,
    load_f32x16,
    maximum,
    mul,
    narrow_to_i8,
    round_to_i32,
    splat_f32x16,
    splat_i32x16,
    store,
    store_f32,
    store_i16,
    store_i32,
)

SMALLEST = np.float32(4e-37)  # 127 / SMALLEST is just below the largest f32


def quantize_reference(x: npt.NDArray[np.float32], block: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The definition: rows of `block` values -> (q, d)."""
    runs = x.astype(np.float32).reshape(-1, block)
    amax = np.abs(runs).max(axis=1)
    amax = np.where(amax < SMALLEST, np.float32(0), amax)
    d = (amax / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(amax == 0, np.float32(0), np.float32(127) / amax).astype(np.float32)
    q = np.rint(runs * inverse[:, None]).astype(np.int8)
    return q, d


@inline
def _magnitudes(x):
    """|x| as integers, which compare like the floats they are, with NaN above everything: it must not get lost."""
    return as_i32x16(absolute(load_f32x16(x)))


@inline
def _largest(magnitudes):
    amax = first_lane(as_f32x16(splat_i32x16(hmax(magnitudes))))
    return np.float32(0) if amax < SMALLEST else amax


@inline
def _inverse(amax):
    return np.float32(0) if amax == np.float32(0) else np.float32(127) / amax


@inline
def into_q8k(x, n, out):
    """A row of n floats (a multiple of 256) at address x into Q8K records at address out."""
    for i in range(n // Q8K_VALUES):
        xi, record = x + 4 * Q8K_VALUES * i, out + Q8K_BYTES * i
        magnitudes = _magnitudes(xi)
        for k in range(1, 16):
            magnitudes = maximum(magnitudes, _magnitudes(xi + 64 * k))
        amax = _largest(magnitudes)
        factor = splat_f32x16(_inverse(amax))
        store_f32(record + Q8K_SCALE, amax / np.float32(127))
        total = np.int32(0)
        for k in range(8):
            low = round_to_i32(mul(load_f32x16(xi + 128 * k), factor))
            high = round_to_i32(mul(load_f32x16(xi + 128 * k + 64), factor))
            store(record + 32 * k, narrow_to_i8(low))
            store(record + 32 * k + 16, narrow_to_i8(high))
            sum_low, sum_high = hsum(low), hsum(high)
            store_i16(record + Q8K_SUMS16 + 4 * k, sum_low)
            store_i16(record + Q8K_SUMS16 + 4 * k + 2, sum_high)
            store_i16(record + Q8K_SUMS32 + 2 * k, sum_low + sum_high)
            total += sum_low + sum_high
        store_i32(record + Q8K_SUM, total)


@inline
def into_q8(x, n, out):
    """A row of n floats (a multiple of 32) at address x into Q8 records at address out, whose fill is not touched."""
    for i in range(n // Q8_RUN):
        xi = x + 4 * Q8_RUN * i
        record, run = out + i * Q8_RUN // Q8_VALUES * Q8_BYTES, i % (Q8_VALUES // Q8_RUN)
        amax = _largest(maximum(_magnitudes(xi), _magnitudes(xi + 64)))
        factor = splat_f32x16(_inverse(amax))
        q_low = round_to_i32(mul(load_f32x16(xi), factor))
        q_high = round_to_i32(mul(load_f32x16(xi + 64), factor))
        store(record + Q8_RUN * run, narrow_to_i8(q_low))
        store(record + Q8_RUN * run + 16, narrow_to_i8(q_high))
        store_f32(record + Q8_SCALES + 4 * run, amax / np.float32(127))
        store_i32(record + Q8_SUMS + 4 * run, 128 * hsum(add(q_low, q_high)))


@kernel
def quantize_q8k(x, n, out):
    """into_q8k for Python."""
    into_q8k(x, n, out)


@kernel
def quantize_q8(x, n, out):
    """into_q8 for Python."""
    into_q8(x, n, out)
