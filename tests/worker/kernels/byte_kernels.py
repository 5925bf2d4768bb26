"""Kernels that apply the verbs over products of bytes, a set for every largest byte, for the vocabulary's tests."""

import functools
from typing import Any, NamedTuple

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import (
    dot_bytes_each,
    dot_groups,
    dot_groups_times,
    dot_i8i8,
    dot_i8i8_times,
    dot_times,
    dot_u8i8,
    load_i8x32,
    load_i8x64,
    load_i32x8,
    load_i32x16,
    spread_factors,
    store,
    store_each,
    to_factors,
    zero_i32x16,
    zeros_i32,
)


class Kernels(NamedTuple):
    dots: Any
    dots_times: Any
    groups: Any
    groups_times: Any


@functools.cache
def kernels_for(largest: int) -> Kernels:
    @kernel
    def dots(acc, u, s, out):
        """Sixteen lanes, then eight."""
        store(out, dot_u8i8(load_i32x16(acc), load_i8x64(u), load_i8x64(s), largest))
        store(out + 64, dot_u8i8(load_i32x8(acc), load_i8x32(u), load_i8x32(s), largest))

    @kernel
    def dots_times(acc, u, s, scales, out):
        """Scales as they are, then the first one in every lane."""
        f = to_factors(load_i32x16(scales))
        in_order, first = spread_factors(f, "0123456789abcdef"), spread_factors(f, "0000000000000000")
        store(out, dot_times(load_i32x16(acc), load_i8x64(u), load_i8x64(s), in_order, largest))
        store(out + 64, dot_times(zero_i32x16(), load_i8x64(u), load_i8x64(s), first, largest))

    @kernel
    def groups(panel, x, stride, out):
        """Nine groups of four bytes, one, and one as a vector: three tokens each."""
        store_each(out, 64, dot_groups(zeros_i32(3), panel, x, stride, 9, largest))
        store_each(out + 192, 64, dot_groups(zeros_i32(3), panel, x, stride, 1, largest))
        store_each(out + 384, 64, dot_bytes_each(zeros_i32(3), load_i32x16(panel), x, stride, largest))

    @kernel
    def groups_times(panel, x, stride, scales, out):
        """Nine groups, for three tokens, and for one; both begin with what nine groups have given."""
        scale = load_i32x16(scales)
        acc = dot_groups_times(zeros_i32(3), panel, x, stride, 9, largest, scale)
        store_each(out, 64, dot_groups_times(acc, panel, x, stride, 9, largest, scale))
        acc = dot_groups_times(zeros_i32(1), panel, x, stride, 9, largest, scale)
        store_each(out + 192, 64, dot_groups_times(acc, panel, x, stride, 9, largest, scale))

    return Kernels(dots, dots_times, groups, groups_times)


@kernel
def signed_dots(acc, x, y, out):
    """Sixteen lanes, then eight."""
    store(out, dot_i8i8(load_i32x16(acc), load_i8x64(x), load_i8x64(y)))
    store(out + 64, dot_i8i8(load_i32x8(acc), load_i8x32(x), load_i8x32(y)))


@kernel
def signed_dots_times(acc, x, y, scales, out):
    """Scales as they are, then the first one in every lane."""
    f = to_factors(load_i32x16(scales))
    in_order, first = spread_factors(f, "0123456789abcdef"), spread_factors(f, "0000000000000000")
    store(out, dot_i8i8_times(load_i32x16(acc), load_i8x64(x), load_i8x64(y), in_order))
    store(out + 64, dot_i8i8_times(zero_i32x16(), load_i8x64(x), load_i8x64(y), first))


@kernel
def signed_groups(panel, x, stride, scales, out):
    """Nine groups of four bytes, as they are, times scales on top of that, of one token; and one group as a vector."""
    acc = dot_groups(zeros_i32(3), panel, x, stride, 9, None)
    store_each(out, 64, acc)
    store_each(out + 192, 64, dot_groups_times(acc, panel, x, stride, 9, None, load_i32x16(scales)))
    store_each(out + 384, 64, dot_groups(zeros_i32(1), panel, x, stride, 9, None))
    store_each(out + 448, 64, dot_bytes_each(zeros_i32(3), load_i32x16(panel), x, stride, None))
