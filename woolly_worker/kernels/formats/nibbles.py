"""Blocks of 32 weights in sixteen bytes: byte l holds weight l in its low nibble and weight 16 + l in its high one. And
their fifth bits, where there are some: bit l of four bytes is that of weight l.

`at` is where a block has the sixteen bytes, `bits_at` where it has the four.
"""

import numpy as np

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    bytes_from_bits,
    concat,
    first_half,
    load_i8x16,
    load_i32,
    mul,
    shift_left,
    shift_right,
    shift_sixteens,
    sixteen_bytes,
    sixteen_twice,
    splat_i32x16,
    store,
    sub,
    to_f32,
    zero_extend,
)


@inline
def nibbles(block, at):
    """One block's 32 values, in order."""
    packed = load_i8x16(block + at)
    return concat(and_bits(packed, 15), shift_right(packed, 4))


@inline
def nibbles_of_two(block, at, block_bytes):
    """64 values: those of a block and of the next one."""
    packed = concat(load_i8x16(block + at), load_i8x16(block + block_bytes + at))
    return and_bits(shift_sixteens(sixteen_twice(packed), 0, 4), 15)


@inline
def fives(block, at, bits_at):
    """The same with fifth bits."""
    high = bytes_from_bits(load_i32(block + bits_at), np.int32(0), 16)
    return bor(nibbles(block, at), first_half(high))


@inline
def fives_of_two(block, at, bits_at, block_bytes):
    high = bytes_from_bits(load_i32(block + bits_at), load_i32(block + block_bytes + bits_at), 16)
    return bor(nibbles_of_two(block, at, block_bytes), high)


@inline
def low_nibbles(q):
    """Of every byte of a vector of sixteen rows' columns, see gather_columns."""
    return and_bits(q, 0x0F0F0F0F)


@inline
def high_nibbles(q):
    return and_bits(shift_right(q, 4), 0x0F0F0F0F)


@inline
def fifth_of_four(bits):
    """The lowest four bits of every lane as bit 4 of its four bytes: a product puts a copy of them at each byte."""
    four = and_bits(bits, 15)
    return shift_left(and_bits(mul(four, splat_i32x16(np.int32(0x00204081))), 0x01010101), 4)


@inline
def store_numbers(q, offset, d, out):
    """32 values as f32: (q - offset) * d."""
    offset = splat_i32x16(np.int32(offset))
    store(out, mul(to_f32(sub(zero_extend(sixteen_bytes(q, 0)), offset)), d))
    store(out + 64, mul(to_f32(sub(zero_extend(sixteen_bytes(q, 16)), offset)), d))


@inline
def store_numbers_and_min(q, d, m, out):
    """32 values as f32: q * d + m."""
    store(out, add(mul(to_f32(zero_extend(sixteen_bytes(q, 0))), d), m))
    store(out + 64, add(mul(to_f32(zero_extend(sixteen_bytes(q, 16))), d), m))
