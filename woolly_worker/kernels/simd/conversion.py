"""Verbs that change a vector's type or the order of its lanes."""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    constant,
    extend_half_ir,
    join_ir,
    select_by_bits_ir,
    shuffle_ir,
    splat_ir,
    truncate_to_half_ir,
    verb,
)
from woolly_worker.kernels.simd.memory import first_lanes_ir
from woolly_worker.kernels.simd.vectors import (
    I32,
    I64,
    Vec,
    f16x16,
    f32x16,
    i8x32,
    i8x64,
    i16x32,
    i32x8,
    i32x16,
)


@verb
def splat_f32x16(typing_context: Any, scalar: Any) -> Any:
    return f32x16(types.float32), lambda context, b, sig, args: splat_ir(b, args[0], 16)


@verb
def splat_i32x16(typing_context: Any, scalar: Any) -> Any:
    return i32x16(types.int32), lambda context, b, sig, args: splat_ir(b, args[0], 16)


@verb
def splat_i32x8(typing_context: Any, scalar: Any) -> Any:
    return i32x8(types.int32), lambda context, b, sig, args: splat_ir(b, args[0], 8)


def _zero(of: Vec) -> Any:
    @verb
    def zero(typing_context: Any) -> Any:
        return of(), lambda context, b, sig, args: ir.Constant(of.llvm, None)

    return zero


zero_f32x16 = _zero(f32x16)
zero_i32x16 = _zero(i32x16)
zero_i32x8 = _zero(i32x8)


@verb
def to_f32(typing_context: Any, x: Any) -> Any:
    """i32 (rounded to nearest) or f16 (exact) lanes as f32."""
    result = Vec("f32", x.n)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return extend_half_ir(b, args[0]) if x.element == "f16" else b.sitofp(args[0], result.llvm)

    return result(x), emit


@verb
def to_f16(typing_context: Any, x: Any) -> Any:
    result = Vec("f16", x.n)
    return result(x), lambda context, b, sig, args: truncate_to_half_ir(b, args[0])


@verb
def round_to_i32(typing_context: Any, x: Any) -> Any:
    """The nearest integer, ties to even, for |x| < 2**22.

    Adding 1.5 * 2**23 leaves the integer in the low mantissa bits: plain IEEE, no rounding instruction to differ.
    """
    result = Vec("i32", x.n)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        shifted = b.fadd(args[0], constant(x.llvm, 12582912.0))
        return b.sub(b.bitcast(shifted, result.llvm), constant(result.llvm, 0x4B400000))

    return result(x), emit


@verb
def sign_extend(typing_context: Any, x: Any) -> Any:
    """i8 or i16 lanes as i32."""
    result = Vec("i32", x.n)
    return result(x), lambda context, b, sig, args: b.sext(args[0], result.llvm)


@verb
def zero_extend(typing_context: Any, x: Any) -> Any:
    """i8 or i16 lanes, read as unsigned, as i32."""
    result = Vec("i32", x.n)
    return result(x), lambda context, b, sig, args: b.zext(args[0], result.llvm)


@verb
def sign_extend_to_i16(typing_context: Any, x: Any) -> Any:
    """i8 lanes as i16."""
    result = Vec("i16", x.n)
    return result(x), lambda context, b, sig, args: b.sext(args[0], result.llvm)


@verb
def zero_extend_to_i16(typing_context: Any, x: Any) -> Any:
    """i8 lanes, read as unsigned, as i16."""
    result = Vec("i16", x.n)
    return result(x), lambda context, b, sig, args: b.zext(args[0], result.llvm)


@verb
def narrow_to_i8(typing_context: Any, x: Any) -> Any:
    result = Vec("i8", x.n)
    return result(x), lambda context, b, sig, args: b.trunc(args[0], result.llvm)


@verb
def narrow_to_i16(typing_context: Any, x: Any) -> Any:
    result = Vec("i16", x.n)
    return result(x), lambda context, b, sig, args: b.trunc(args[0], result.llvm)


def _bitcast(to: Vec) -> Any:
    @verb
    def cast(typing_context: Any, x: Any) -> Any:
        return to(x), lambda context, b, sig, args: b.bitcast(args[0], to.llvm)

    return cast


as_f32x16 = _bitcast(f32x16)
as_i32x16 = _bitcast(i32x16)
as_i8x32 = _bitcast(i8x32)
as_i8x64 = _bitcast(i8x64)
as_f16x16 = _bitcast(f16x16)
as_i16x32 = _bitcast(i16x32)


@verb
def concat(typing_context: Any, low: Any, high: Any) -> Any:
    result = Vec(low.element, 2 * low.n)
    return result(low, low), lambda context, b, sig, args: join_ir(b, list(args))


@verb
def twice(typing_context: Any, x: Any) -> Any:
    """x, and x again behind it."""
    result = Vec(x.element, 2 * x.n)
    return result(x), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], list(range(x.n)) * 2)


@verb
def spread(typing_context: Any, x: Any, pattern: Any) -> Any:
    """A shuffle within one vector; `pattern` is a literal string of lane numbers in base 36, one for each lane."""
    if not isinstance(pattern, types.StringLiteral):
        return None
    indices = [int(digit, 36) for digit in pattern.literal_value]
    result = Vec(x.element, len(indices))
    return result(x, pattern), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], indices)


@verb
def word_of(typing_context: Any, x: Any, index: Any) -> Any:
    """Eight bytes of an integer vector as an int64; the index, in units of eight bytes, is a literal."""
    if not isinstance(index, types.IntegerLiteral):
        return None
    i = index.literal_value

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        words = ir.VectorType(I64, x.n * x.llvm.element.width // 64)
        return b.extract_element(b.bitcast(args[0], words), I32(i))

    return types.int64(x, index), emit


@verb
def first_lanes_or(typing_context: Any, x: Any, n: Any, other: Any) -> Any:
    """The first n lanes of x; the scalar `other` in the rest."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.select(first_lanes_ir(b, args[1], x.n), args[0], splat_ir(b, args[2], x.n))

    return x(x, types.intp, types.float32), emit


@verb
def first_lanes(typing_context: Any, n: Any, x: Any, y: Any) -> Any:
    """The first n lanes of x; y in the rest."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.select(first_lanes_ir(b, args[0], x.n), args[1], args[2])

    return x(types.intp, x, x), emit


@verb
def low_halves_f32(typing_context: Any, x: Any) -> Any:
    """The low 16 bits of every i32 lane, read as f16."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        halves = b.trunc(args[0], ir.VectorType(ir.IntType(16), x.n))
        return extend_half_ir(b, b.bitcast(halves, ir.VectorType(ir.HalfType(), x.n)))

    return Vec("f32", x.n)(x), emit


@verb
def high_halves_f32(typing_context: Any, x: Any) -> Any:
    """The high 16 bits of every i32 lane, read as f16."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        halves = b.trunc(b.lshr(args[0], constant(x.llvm, 16)), ir.VectorType(ir.IntType(16), x.n))
        return extend_half_ir(b, b.bitcast(halves, ir.VectorType(ir.HalfType(), x.n)))

    return Vec("f32", x.n)(x), emit


@verb
def widen_bytes(typing_context: Any, low: Any, high: Any) -> Any:
    """The eight bytes of two i32 scalars as an i32x8, unsigned."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        both = ir.Constant(ir.VectorType(I32, 2), ir.Undefined)
        both = b.insert_element(b.insert_element(both, args[0], I32(0)), args[1], I32(1))
        return b.zext(b.bitcast(both, ir.VectorType(ir.IntType(8), 8)), i32x8.llvm)

    return i32x8(types.int32, types.int32), emit


@verb
def first_lane(typing_context: Any, x: Any) -> Any:
    return types.float32(x), lambda context, b, sig, args: b.extract_element(args[0], I32(0))


@verb
def lane(typing_context: Any, x: Any, index: Any) -> Any:
    """One lane of a float vector; the index need not be a literal."""
    return types.float32(x, types.intp), lambda context, b, sig, args: b.extract_element(*args)


@verb
def with_lane(typing_context: Any, x: Any, index: Any, value: Any) -> Any:
    """x with one lane replaced."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.insert_element(args[0], args[2], args[1])

    return x(x, types.intp, types.float32), emit


@verb
def sixteen_twice(typing_context: Any, x: Any) -> Any:
    """Of 32 bytes: the first sixteen, again, the last sixteen, again."""
    indices = [*range(16), *range(16), *range(16, 32), *range(16, 32)]
    return i8x64(x), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], indices)


@verb
def bytes_from_bits(typing_context: Any, low: Any, high: Any, value: Any) -> Any:
    """64 bytes that are the literal `value` where a bit is set, else 0: bits of `low`, then of `high`, i32 each."""
    if not isinstance(value, types.IntegerLiteral):
        return None
    byte = value.literal_value

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        i64 = ir.IntType(64)
        both = b.or_(b.zext(args[0], i64), b.shl(b.zext(args[1], i64), i64(32)))
        return select_by_bits_ir(b, both, constant(i8x64.llvm, byte), ir.Constant(i8x64.llvm, None))

    return i8x64(types.int32, types.int32, value), emit


@verb
def first_half(typing_context: Any, x: Any) -> Any:
    result = Vec(x.element, x.n // 2)
    return result(x), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], list(range(x.n // 2)))


@verb
def sixteen_bytes(typing_context: Any, x: Any, first: Any) -> Any:
    """Sixteen of a vector's bytes, from the literal `first` on."""
    if not isinstance(first, types.IntegerLiteral):
        return None
    indices = list(range(first.literal_value, first.literal_value + 16))
    return Vec("i8", 16)(x, first), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], indices)
