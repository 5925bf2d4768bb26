"""Q4_K and Q5_K on the matrix unit: their planes, and the float steps with a min for each sub-block.

A scale is below 64 and a weight below 32. With the scale in two parts, scale = 8 * high + low, both products of a
weight fit a byte, and a multiplication of 16-bit lanes makes two of them without a bit that crosses over:

    sum of weight * scale * x  =  8 * (sum of weight * high * x)  +  sum of weight * low * x

Lanes are rows.
"""

from collections.abc import Callable
from typing import Any

from woolly_worker.kernels.activations import Q8K_SCALE, Q8K_SUMS32
from woolly_worker.kernels.formats.k_scales import first_mins, first_scales, last_mins, last_scales
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import LOWER, UPPER, MatrixUnit, UpperPlane
from woolly_worker.kernels.simd import (
    and_bits,
    as_i16x32,
    bytes_as_halves,
    dot_i16,
    fma,
    gather_columns,
    high_halves_f32,
    load_f32,
    load_f32x16,
    load_i32,
    load_i32x16,
    low_halves_f32,
    mul,
    negate,
    shift_right,
    splat_f32x16,
    splat_i32x16,
    store,
    to_f32,
    vector_of,
    zero_i32x16,
)

# The factors of sixteen rows:
_D, _DMIN = 0, 64  # f32; dmin is negated
_MINS = 128  # pairs of i16 for sub-blocks (0, 1), (2, 3), ...


@inline
def unpack_factors(block, row_bytes, factors):
    """The parts of the scales: four bytes a lane, low ones of sub-blocks 0..3 and 4..7, then the high ones."""
    head = gather_columns(block, row_bytes)
    d, s0, s1, s2 = vector_of(head, 0), vector_of(head, 1), vector_of(head, 2), vector_of(head, 3)
    store(factors + _D, low_halves_f32(d))
    store(factors + _DMIN, negate(high_halves_f32(d)))
    mins = first_mins(s1)
    store(factors + _MINS, bytes_as_halves(mins, 0, 1))
    store(factors + _MINS + 64, bytes_as_halves(mins, 2, 3))
    mins = last_mins(s1, s2)
    store(factors + _MINS + 128, bytes_as_halves(mins, 0, 1))
    store(factors + _MINS + 192, bytes_as_halves(mins, 2, 3))
    first, last = first_scales(s0), last_scales(s0, s2)
    return (
        and_bits(first, 0x07070707),
        and_bits(last, 0x07070707),
        and_bits(shift_right(first, 3), 0x07070707),
        and_bits(shift_right(last, 3), 0x07070707),
    )


@inline
def store_products(q, low, high, place):
    """Four weights of sixteen rows times the parts of their scales, which have a 16-bit lane for every two weights."""
    q = as_i16x32(q)
    store(place + LOWER, mul(q, low))
    store(place + UPPER, mul(q, high))


def scales_of(sub_block: int) -> Any:
    """A sub-block's two parts, twice a lane, out of those that unpack_factors returns."""
    half, at = sub_block // 4, sub_block % 4

    @inline
    def scales(parts):
        return bytes_as_halves(parts[half], at, at), bytes_as_halves(parts[2 + half], at, at)

    return scales


@inline
def load_mins(place):
    """The mins of eight sub-blocks, as four vectors of pairs. Shared with Q2_K, like the two below."""
    return load_i32x16(place), load_i32x16(place + 64), load_i32x16(place + 128), load_i32x16(place + 192)


@inline
def times_sums(offset, mins, sums):
    """offset + mins times the i16 sums of as many sub-blocks."""
    offset = dot_i16(offset, mins[0], splat_i32x16(load_i32(sums)))
    offset = dot_i16(offset, mins[1], splat_i32x16(load_i32(sums + 4)))
    offset = dot_i16(offset, mins[2], splat_i32x16(load_i32(sums + 8)))
    return dot_i16(offset, mins[3], splat_i32x16(load_i32(sums + 12)))


@inline
def add_both(d, dmin, record, total, offset, acc):
    """The float steps of a block and of its mins; dmin is negated."""
    scale = splat_f32x16(load_f32(record + Q8K_SCALE))
    acc = fma(mul(d, scale), to_f32(total), acc)
    return fma(mul(dmin, scale), to_f32(offset), acc)


@inline
def _load_factors(factors):
    return load_f32x16(factors + _D), load_f32x16(factors + _DMIN), load_mins(factors + _MINS)


@inline
def _add_token(factors, record, total, acc):
    """`_add_to_floats` of q4_k.py for one token."""
    d, dmin, mins = factors
    return add_both(d, dmin, record, total, times_sums(zero_i32x16(), mins, record + Q8K_SUMS32), acc)


def unit_with_mins(unpack_factors: Any, quarter: Callable[[int], Any]) -> MatrixUnit:
    """quarter(c) makes what unpacks sub-blocks 2 c and 2 c + 1."""
    quarters = quarter(0), quarter(1), quarter(2), quarter(3)
    return MatrixUnit(unpack_factors, quarters, _load_factors, _add_token, UpperPlane(3, is_signed=False))
