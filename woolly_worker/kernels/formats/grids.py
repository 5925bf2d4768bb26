"""What the i-quants with grids share: a weight is an entry of a table, a sign and a sub-scale.

    IQ2_XXS, IQ2_XS, IQ2_S    an index for eight magnitudes out of (8, 25, 43), a sign for each weight
    IQ3_XXS, IQ3_S            an index for four magnitudes of eight, a sign for each weight
    IQ1_S, IQ1_M              an index for eight numbers out of (-1, 0, 1), all moved by 1/8 up or down

Each format's `read_block` sorts out one quant block of one row, in registers:

    notes    i16x32, or i16x64 for IQ3   what stands for its indices, see `grid_verbs`
    signs    i8x32                       a bit for each weight
    scales   i32x16                      the sub-scale of every sixteen weights

and its `weights(notes, signs, k)` looks up weights 64 k .. 64 k + 64 as unsigned bytes, OFFSET + w. For every format w
is an integer, |w| <= 62, and so is the sub-scale, 1 <= s <= 31: the constants of ggml's formulas (1/4, 1/2, 1/8) are
powers of two, and the super-scale takes them without rounding. weight = super-scale * s * w.

The tables come from the `gguf` package, when a kernel is compiled.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    bxor,
    choose,
    concat,
    filled_like,
    load_i32,
    or_bits,
    shift_left,
    shift_right,
    spread,
    sub,
    widen_bytes,
)

OFFSET = 64


def _grid(name: str) -> npt.NDArray[np.int64]:
    # Here, and not above: only who compiles needs the package, whose import takes half a second.
    from gguf import quants

    table = getattr(quants, name)
    table.init_grid()
    return np.asarray(table.grid[0, 0]).astype(np.int64)


def magnitudes(name: str) -> npt.NDArray[np.uint8]:
    """The grid of an IQ2 or IQ3 format: OFFSET + |w|."""
    return (OFFSET + _grid(name)).astype(np.uint8)


def eighths() -> npt.NDArray[np.uint8]:
    """The grid of both IQ1 formats, in eighths and moved up by one of them: OFFSET + 8 g + 1."""
    return (OFFSET + 8 * _grid("IQ1_S") + 1).astype(np.uint8)


@inline
def with_signs(entries, bits):
    """OFFSET - |w| where a weight's bit is set."""
    return choose(bits, sub(filled_like(entries, 128), entries), entries)


@inline
def moved_down(entries, bits):
    """An eighth below the grid instead of above it where a weight's bit is set."""
    return choose(bits, add(entries, filled_like(entries, -2)), entries)


@inline
def even_signs(words):
    """Four groups of seven sign bits in every i32 lane, from the lowest on, as four bytes of eight.

    The eighth sign of a group makes the number of minus signs even; ggml reads it from a table of 128 bytes.
    """
    pairs = bor(and_bits(words, 0x3FFF), shift_left(and_bits(words, 0x0FFFC000), 2))
    sevens = bor(and_bits(pairs, 0x007F007F), shift_left(and_bits(pairs, 0x3F803F80), 1))
    return bor(sevens, shift_left(and_bits(parities(sevens), 0x01010101), 7))


@inline
def parities(x):
    """In the lowest bit of every byte, whether an odd number of the byte's bits is set. Other bits are noise."""
    x = bxor(x, shift_right(x, 4))
    x = bxor(x, shift_right(x, 2))
    return bxor(x, shift_right(x, 1))


@inline
def odd(s):
    """2 s + 1: every sub-scale is stored as such an s."""
    return or_bits(shift_left(s, 1), 1)


@inline
def for_both_halves(scales):
    """The sub-scales of eight runs of 32 weights as those of sixteen runs of 16."""
    return spread(scales, "0011223344556677")


@inline
def eight_nibbles(address):
    """The sub-scales in four bytes, a nibble for every 32 weights, the low one first."""
    w = load_i32(address)
    return for_both_halves(odd(spread(widen_bytes(w & 0x0F0F0F0F, (w >> 4) & 0x0F0F0F0F), "04152637")))


@inline
def sixteen_nibbles(address):
    """The sub-scales in eight bytes, a nibble for every 16 weights, the low one first."""
    both = widen_bytes(load_i32(address), load_i32(address + 4))
    return odd(spread(concat(and_bits(both, 15), shift_right(both, 4)), "08192a3b4c5d6e7f"))
