"""Signed products of sixteen bits on the matrix unit: Q6_K, IQ4_XS and the i-quants with grids.

A weight is kept as an unsigned byte, some power of two too large. Times its sub-scale, and that power of two times the
sub-scale taken away, it is a number of sixteen bits, whose bytes go to the two planes:

    sum of weight * scale * x  =  256 * (sum of upper byte * x)  +  sum of lower byte * x

Lanes are rows. Sixteen bits hold the products: 63 * 128 of Q6_K, 241 * 32 of IQ4_XS, 126 * 31 of the grids.
"""

from typing import Any

from woolly_worker.kernels.activations import Q8K_SCALE
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import LOWER, UPPER, MatrixUnit, UpperPlane
from woolly_worker.kernels.simd import (
    bytes_as_halves,
    fma,
    interleave_bytes,
    load_f32,
    load_f32x16,
    mul,
    pair_products,
    shift_left,
    shift_right_signed,
    splat_f32x16,
    store,
    sub,
    to_f32,
)


def scales_with(offset: int) -> Any:
    """How a format with raised weights, weight + offset, reads its sub-scales: scales_of(sub_block), a part that is
    handed all of them, vectors of four signed bytes a lane."""
    shift = 8 - (offset.bit_length() - 1)
    assert offset << shift == 256, "a power of two"

    def scales_of(sub_block: int) -> Any:
        four, at = sub_block // 4, sub_block % 4

        @inline
        def scales(all_scales):
            """A sub-scale in the lower byte of 16 bits, in the upper one, and `offset` times the sub-scale."""
            scale = bytes_as_halves(all_scales[four], at, at)
            upper = shift_left(scale, 8)
            return scale, upper, shift_right_signed(upper, shift)

        return scales

    return scales_of


@inline
def store_products(raised, scales, place):
    """Four raised weights of sixteen rows; `scales` is what a part of `scales_with` returns."""
    scale, upper, offset = scales
    even, odd = sub(pair_products(raised, scale), offset), sub(pair_products(raised, upper), offset)
    store(place + LOWER, interleave_bytes(even, odd, 0))
    store(place + UPPER, interleave_bytes(even, odd, 1))


@inline
def _add_token(d, record, total, acc):
    """A block's only float step."""
    return fma(mul(d, splat_f32x16(load_f32(record + Q8K_SCALE))), to_f32(total), acc)


def signed_unit(unpack_factors: Any, quarters: tuple[Any, Any, Any, Any]) -> MatrixUnit:
    """unpack_factors stores d, as f32 x 16 rows, and nothing else."""
    return MatrixUnit(unpack_factors, quarters, load_f32x16, _add_token, UpperPlane(8, is_signed=True))
