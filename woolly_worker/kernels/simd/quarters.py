"""Verbs for four quant blocks at once: a block in each quarter of a vector, or a vector for each block.

They turn what four blocks have in common (unpacking scales, adding lanes up, the float step at the end) into single
instructions: one row times one token is bound by the number of those.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    extend_half_ir,
    join_ir,
    load_ir,
    shuffle_ir,
    verb,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS
from woolly_worker.kernels.simd.vectors import I32, f32x4, i8x64, i32x4, i32x16

_FOUR = [types.intp] * 4


@verb
def load_quarters(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Sixteen bytes from each of four addresses."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return join_ir(b, [load_ir(b, address, i32x4.llvm) for address in args])

    return i32x16(*_FOUR), emit


def _load_four(element: ir.Type) -> Any:
    @verb
    def load(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        """One number from each of four addresses; f16 as f32."""

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            four = ir.Constant(ir.VectorType(element, 4), ir.Undefined)
            for lane, address in enumerate(args):
                four = b.insert_element(four, load_ir(b, address, element), I32(lane))
            return extend_half_ir(b, four) if isinstance(element, ir.HalfType) else four

        return (i32x4 if isinstance(element, ir.IntType) else f32x4)(*_FOUR), emit

    return load


load_four_i32 = _load_four(I32)
load_four_f32 = _load_four(ir.FloatType())
load_four_f16 = _load_four(ir.HalfType())


@verb
def four_f32(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Four numbers side by side."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        four = ir.Constant(f32x4.llvm, ir.Undefined)
        for lane, number in enumerate(args):
            four = b.insert_element(four, number, I32(lane))
        return four

    return f32x4(*[types.float32] * 4), emit


@verb
def in_quarters(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The same four literal integers in every quarter."""
    if not all(isinstance(literal, types.IntegerLiteral) for literal in (a, b, c, d)):
        return None
    lanes = [literal.literal_value for literal in (a, b, c, d)] * 4
    return i32x16(a, b, c, d), lambda context, b, sig, args: ir.Constant(i32x16.llvm, lanes)


@verb
def shift_right_in_quarters(typing_context: Any, x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Lanes 0 of all quarters shifted right by `a`, lanes 1 by `b`, and so on: literals. Zeros come in."""
    if not all(isinstance(literal, types.IntegerLiteral) for literal in (a, b, c, d)):
        return None
    counts = [literal.literal_value for literal in (a, b, c, d)] * 4
    return x(x, a, b, c, d), lambda context, b, sig, args: b.lshr(args[0], ir.Constant(x.llvm, counts))


@verb
def mins_of_quarters(typing_context: Any, low: Any, high: Any) -> Any:
    """The four bytes of lane 2 of each quarter of `low`, then those of `high`, as eight 16-bit numbers in place of the
    quarter."""
    from_each = [at + lane for at in (0, 64) for lane in range(8, 12)]
    indices = [16 * quarter + index for quarter in range(4) for index in from_each]

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        first, last = (b.bitcast(a, i8x64.llvm) for a in args)
        mins = shuffle_ir(b, first, last, indices)
        return b.bitcast(b.zext(mins, ir.VectorType(ir.IntType(16), 32)), i32x16.llvm)

    return i32x16(low, low), emit


@verb
def first_of_quarters(typing_context: Any, x: Any) -> Any:
    """Lanes 0, 4, 8 and 12."""
    return i32x4(x), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], [0, 4, 8, 12])


def _in_quarters(lanes: list[int]) -> list[int]:
    return [4 * quarter + lane for quarter in range(4) for lane in lanes]


@verb
def quarter_sums(typing_context: Any, x: Any) -> Any:
    """The sum of each quarter's four integers."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        v = args[0]
        v = b.add(v, shuffle_ir(b, v, v, _in_quarters([1, 0, 3, 2])))
        v = b.add(v, shuffle_ir(b, v, v, _in_quarters([2, 3, 0, 1])))
        return shuffle_ir(b, v, v, [0, 4, 8, 12])

    return i32x4(x), emit


def _exchange(b: Builder, x: Value, y: Value, low: list[int], high: list[int]) -> Value:
    return b.add(shuffle_ir(b, x, y, low), shuffle_ir(b, x, y, high))


def _quarters_of_four(b: Builder, vectors: list[Value]) -> Value:
    """Four i32x16 -> one: in each quarter the sums of theirs, by two steps of exchanging and adding."""
    low, high = _in_quarters([0, 16, 1, 17]), _in_quarters([2, 18, 3, 19])
    first, last = _in_quarters([0, 1, 16, 17]), _in_quarters([2, 3, 18, 19])
    x, y, z, w = vectors
    return _exchange(b, _exchange(b, x, y, low, high), _exchange(b, z, w, low, high), first, last)


@verb
def sums_of_four(typing_context: Any, x: Any, y: Any, z: Any, w: Any) -> Any:
    """The four sums of the lanes of four integer vectors: thirteen instructions, where four single sums take 32."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        v = _quarters_of_four(b, list(args))
        v = _exchange(b, v, v, list(range(8)), list(range(8, 16)))
        return _exchange(b, v, v, list(range(4)), list(range(4, 8)))

    return i32x4(x, x, x, x), emit


@verb
def sums_of_eight(typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Eight i32x16, the halves of each added up: [a's first half, a's second, b's first, ... h's second]."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        x, y = _quarters_of_four(b, list(args[:4])), _quarters_of_four(b, list(args[4:]))
        # Quarters 0 and 1 are of the vectors' first halves, 2 and 3 of the second.
        even = [4 * q + lane for q in (0, 2, 4, 6) for lane in range(4)]
        odd = [4 * q + lane for q in (1, 3, 5, 7) for lane in range(4)]
        s = _exchange(b, x, y, even, odd)
        return shuffle_ir(b, s, s, [8 * (k // 8) + k % 8 // 2 + 4 * (k % 2) for k in range(16)])

    return i32x16(*[a] * 8), emit


@verb
def two_factors(typing_context: Any, x: Any, at: Any) -> Any:
    """Byte `at` of x in lanes 0 to 7 and the byte behind it in lanes 8 to 15, zero-extended, as `dot_times` wants them.

    Byte 0 of x must be zero: the upper bytes of every lane come from there, which makes this one permutation.
    """
    if not isinstance(at, types.IntegerLiteral):
        return None
    numbers = [at.literal_value + lane // 8 for lane in range(16)]
    indices = [index for n in numbers for index in ((n, 0, n, 0) if IN_SHORTS else (n, 0, 0, 0))]

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        x8 = b.bitcast(args[0], i8x64.llvm)
        return b.bitcast(shuffle_ir(b, x8, x8, indices), i32x16.llvm)

    return i32x16(x, at), emit


@verb
def sum_in_order(typing_context: Any, x: Any) -> Any:
    """Lane 0 + lane 1 + lane 2 ..., one after the other."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        total = b.extract_element(args[0], I32(0))
        for lane in range(1, x.n):
            total = b.fadd(total, b.extract_element(args[0], I32(lane)))
        return total

    return types.float32(x), emit
