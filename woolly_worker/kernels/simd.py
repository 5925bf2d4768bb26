"""The verbs that kernels are written in: load, store, fma, dot_u8i8, hsum and their kin, over `vectors.Vec`.

Addresses are plain integers in bytes; nothing here checks them. Every verb does the same IEEE operations in the same
order on every CPU. Only `dot_u8i8` and `dot_i16` choose instructions by CPU level, and they are exact in integers.

`_verb` wraps a Python function that emits LLVM IR. Inline assembly is out of reach (Numba sets up no asm parser), so
everything is an LLVM instruction or intrinsic.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from woolly_worker.kernels import jit  # noqa: F401  (settles Numba's options first)
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.vectors import (
    ELEMENTS,
    I32,
    I64,
    Vec,
    f16x16,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
)

Builder = Any
Value = Any


# --- IR helpers -----------------------------------------------------------------------------------------------------


def pointer(b: Builder, address: Value, to: ir.Type) -> Value:
    return b.inttoptr(address, to.as_pointer())


def load_ir(b: Builder, address: Value, of: ir.Type) -> Value:
    value = b.load(pointer(b, address, of))
    value.align = 1
    return value


def store_ir(b: Builder, address: Value, value: Value) -> None:
    b.store(value, pointer(b, address, value.type)).align = 1


def constant(vec: ir.VectorType, value: float | int) -> ir.Constant:
    return ir.Constant(vec, [value] * vec.count)


def mask_ir(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(indices)), indices)


def splat_ir(b: Builder, scalar: Value, n: int) -> Value:
    vec = ir.VectorType(scalar.type, n)
    first = b.insert_element(ir.Constant(vec, ir.Undefined), scalar, I32(0))
    return b.shuffle_vector(first, ir.Constant(vec, ir.Undefined), mask_ir([0] * n))


def shuffle_ir(b: Builder, x: Value, y: Value, indices: list[int]) -> Value:
    return b.shuffle_vector(x, y, mask_ir(indices))


def call_ir(b: Builder, name: str, result: ir.Type, *args: Value) -> Value:
    signature = ir.FunctionType(result, [a.type for a in args])
    return b.call(get_or_insert_function(b.module, signature, name), args)


def dot_u8i8_ir(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    """acc[i] += sum over k < 4 of u8[4 i + k] * i8[4 i + k], for i32 lanes; `u` and `s` have acc's type."""
    vec, n = acc.type, acc.type.count
    if CPU.level in ("avx512vnni", "avxvnni"):
        width = 16 if CPU.level == "avx512vnni" else 8
        return _by_pieces(b, f"llvm.x86.avx512.vpdpbusd.{32 * width}", width, acc, u, s)
    if CPU.level == "avx2":
        # pmaddubsw would saturate for 8-bit weights; widening even and odd bytes to 16 bits first is exact.
        wide = ir.VectorType(ir.IntType(16), 2 * n)
        u16, s16 = b.bitcast(u, wide), b.bitcast(s, wide)
        eight = constant(wide, 8)
        even = _madd_i16(b, b.and_(u16, constant(wide, 255)), b.ashr(b.shl(s16, eight), eight), n)
        odd = _madd_i16(b, b.lshr(u16, eight), b.ashr(s16, eight), n)
        return b.add(acc, b.add(even, odd))
    for k in range(4):
        uk = b.and_(b.lshr(u, constant(vec, 8 * k)), constant(vec, 255))
        sk = b.ashr(b.shl(s, constant(vec, 24 - 8 * k)), constant(vec, 24))
        acc = b.add(acc, b.mul(uk, sk))
    return acc


def dot_i16_ir(b: Builder, acc: Value, x: Value, y: Value) -> Value:
    """acc[i] += x16[2 i] * y16[2 i] + x16[2 i + 1] * y16[2 i + 1]; `x` and `y` have acc's type."""
    vec, n = acc.type, acc.type.count
    if CPU.level in ("avx512vnni", "avxvnni"):
        width = 16 if CPU.level == "avx512vnni" else 8
        return _by_pieces(b, f"llvm.x86.avx512.vpdpwssd.{32 * width}", width, acc, x, y)
    if CPU.level == "avx2":
        wide = ir.VectorType(ir.IntType(16), 2 * n)
        return b.add(acc, _madd_i16(b, b.bitcast(x, wide), b.bitcast(y, wide), n))
    sixteen = constant(vec, 16)

    def low(v: Value) -> Value:
        return b.ashr(b.shl(v, sixteen), sixteen)

    high_products = b.mul(b.ashr(x, sixteen), b.ashr(y, sixteen))
    return b.add(acc, b.add(b.mul(low(x), low(y)), high_products))


def _by_pieces(b: Builder, name: str, width: int, *args: Value) -> Value:
    """Call an intrinsic of `width` lanes on every piece of wider (or the padding of narrower) vectors."""
    n, element = args[0].type.count, args[0].type.element
    if n < width:
        name, width = name.rsplit(".", 1)[0] + f".{32 * n}", n
    piece = ir.VectorType(element, width)
    results = []
    for start in range(0, n, width):
        lanes = list(range(start, start + width))
        parts = [a if n == width else shuffle_ir(b, a, a, lanes) for a in args]
        results.append(call_ir(b, name, piece, *parts))
    return join_ir(b, results)


def _madd_i16(b: Builder, x: Value, y: Value, n: int) -> Value:
    """pmaddwd on 256-bit pieces."""
    results = []
    for start in range(0, n, 8):
        lanes = list(range(2 * start, 2 * start + 16))
        parts = [a if n == 8 else shuffle_ir(b, a, a, lanes) for a in (x, y)]
        results.append(call_ir(b, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), *parts))
    return join_ir(b, results)


def join_ir(b: Builder, parts: list[Value]) -> Value:
    while len(parts) > 1:
        n = parts[0].type.count
        both = list(range(2 * n))
        parts = [shuffle_ir(b, parts[i], parts[i + 1], both) for i in range(0, len(parts), 2)]
    return parts[0]


def reduce_ir(b: Builder, v: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Fold halves until one lane is left: a fixed tree, the same on every CPU."""
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = shuffle_ir(b, v, v, list(range(n))), shuffle_ir(b, v, v, list(range(n, 2 * n)))
        v = combine(low, high)
    return b.extract_element(v, I32(0))


# --- memory ---------------------------------------------------------------------------------------------------------


def _loader(vec: Vec) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        return vec(types.intp), lambda context, b, sig, args: load_ir(b, args[0], vec.llvm)

    return load


load_f32x16 = _loader(f32x16)
load_f16x16 = _loader(f16x16)
load_i32x16 = _loader(i32x16)
load_i32x8 = _loader(i32x8)
load_i16x16 = _loader(i16x16)
load_i16x8 = _loader(i16x8)
load_i8x16 = _loader(i8x16)
load_i8x32 = _loader(i8x32)
load_i8x64 = _loader(i8x64)


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a vector, of any type."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        store_ir(b, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.intp, value), emit


def _scalar_loader(element: str, numba_type: Any, extend: str | None) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            value = load_ir(b, args[0], ELEMENTS[element])
            if extend is None:
                return value
            return getattr(b, extend)(value, context.get_value_type(numba_type))

        return numba_type(types.intp), emit

    return load


load_f32 = _scalar_loader("f32", types.float32, None)
load_f16 = _scalar_loader("f16", types.float32, "fpext")  # exact
load_i32 = _scalar_loader("i32", types.int32, None)
load_i16 = _scalar_loader("i16", types.int32, "sext")
load_i64 = _scalar_loader("i64", types.int64, None)
load_u8 = _scalar_loader("i8", types.int32, "zext")
load_i8 = _scalar_loader("i8", types.int32, "sext")


def _scalar_storer(element: str, numba_type: Any, narrow: str | None) -> Any:
    @intrinsic
    def store_scalar(typing_context: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            value = args[1] if narrow is None else getattr(b, narrow)(args[1], ELEMENTS[element])
            store_ir(b, args[0], value)
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), emit

    return store_scalar


store_f32 = _scalar_storer("f32", types.float32, None)
store_f16 = _scalar_storer("f16", types.float32, "fptrunc")  # rounds to nearest, ties to even
store_i32 = _scalar_storer("i32", types.int32, None)
store_i16 = _scalar_storer("i16", types.int32, "trunc")
store_i8 = _scalar_storer("i8", types.int32, "trunc")
store_i64 = _scalar_storer("i64", types.int64, None)


def _partial_loader(vec: Vec) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any, n: Any) -> Any:
        """The first n lanes; the rest are zero, and their bytes are not touched."""

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            mask = _first_lanes(b, args[1], vec.n)
            name = f"llvm.masked.load.v{vec.n}{vec.element}.p0"
            return call_ir(b, name, vec.llvm, pointer(b, args[0], vec.llvm), I32(1), mask, ir.Constant(vec.llvm, None))

        return vec(types.intp, types.intp), emit

    return load


def _first_lanes(b: Builder, n: Value, lanes: int) -> Value:
    index = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return b.icmp_signed("<", index, splat_ir(b, n, lanes))


load_first_f32x16 = _partial_loader(f32x16)
load_first_i16x16 = _partial_loader(i16x16)  # bf16 and f16 bit patterns


@intrinsic
def store_first(typing_context: Any, address: Any, value: Any, n: Any) -> Any:
    """Write the first n lanes only."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        vec = sig.args[1]
        name = f"llvm.masked.store.v{vec.n}{vec.element}.p0"
        mask = _first_lanes(b, args[2], vec.n)
        call_ir(b, name, ir.VoidType(), args[1], pointer(b, args[0], vec.llvm), I32(1), mask)
        return context.get_dummy_value()

    return types.void(types.intp, value, types.intp), emit


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address that may lie anywhere: a prefetch never faults."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        call_ir(b, "llvm.prefetch.p0", ir.VoidType(), pointer(b, args[0], ir.IntType(8)), I32(0), I32(3), I32(1))
        return context.get_dummy_value()

    return types.void(types.intp), emit


# --- arithmetic -----------------------------------------------------------------------------------------------------


def _binary(name: str, float_op: str | None, int_op: str | None) -> Any:
    @intrinsic
    def verb(typing_context: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            op = float_op if x.element == "f32" else int_op
            assert op is not None, f"{name} is not defined for {x}"
            return getattr(b, op)(*args)

        return x(x, x), emit

    return verb


add = _binary("add", "fadd", "add")
sub = _binary("sub", "fsub", "sub")
mul = _binary("mul", "fmul", "mul")
div = _binary("div", "fdiv", None)
band = _binary("band", None, "and_")
bor = _binary("bor", None, "or_")
bxor = _binary("bxor", None, "xor")


def _with_literal(int_op: str) -> Any:
    @intrinsic
    def verb(typing_context: Any, x: Any, literal: Any) -> Any:
        if not isinstance(literal, types.IntegerLiteral):
            return None
        value = literal.literal_value

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            return getattr(b, int_op)(args[0], constant(x.llvm, value))

        return x(x, literal), emit

    return verb


and_bits = _with_literal("and_")
xor_bits = _with_literal("xor")
shift_left = _with_literal("shl")
shift_right = _with_literal("lshr")  # zeros come in, lane by lane
shift_right_signed = _with_literal("ashr")


@intrinsic
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, f"llvm.fma.v{x.n}f32", x.llvm, *args)

    return x(x, x, x), emit


@intrinsic
def fma_scalar(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, "llvm.fma.f32", ir.FloatType(), *args)

    f32 = types.float32
    return f32(f32, f32, f32), emit


@intrinsic
def negate(typing_context: Any, x: Any) -> Any:
    return x(x), lambda context, b, sig, args: b.fneg(args[0])


@intrinsic
def absolute(typing_context: Any, x: Any) -> Any:
    return x(x), lambda context, b, sig, args: call_ir(b, f"llvm.fabs.v{x.n}f32", x.llvm, args[0])


def _pick_ir(comparison: str) -> Callable[[Builder, Value, Value], Value]:
    # A compare and a select, not llvm.maxnum: its treatment of NaN and -0 differs between CPUs.
    return lambda b, x, y: b.select(b.fcmp_ordered(comparison, x, y), x, y)


@intrinsic
def maximum(typing_context: Any, x: Any, y: Any) -> Any:
    return x(x, x), lambda context, b, sig, args: _pick_ir(">")(b, *args)


@intrinsic
def minimum(typing_context: Any, x: Any, y: Any) -> Any:
    return x(x, x), lambda context, b, sig, args: _pick_ir("<")(b, *args)


@intrinsic
def hsum(typing_context: Any, x: Any) -> Any:
    """The sum of all lanes, halves folded onto each other."""
    scalar = types.float32 if x.element == "f32" else types.int32

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return reduce_ir(b, args[0], b.fadd if x.element == "f32" else b.add)

    return scalar(x), emit


@intrinsic
def hmax(typing_context: Any, x: Any) -> Any:
    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return reduce_ir(b, args[0], lambda x, y: _pick_ir(">")(b, x, y))

    return types.float32(x), emit


@intrinsic
def dot_u8i8(typing_context: Any, acc: Any, u: Any, s: Any) -> Any:
    """i32 lanes: acc[i] + the four products of unsigned bytes u[4 i ..] with signed bytes s[4 i ..]. Exact."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        lanes = acc.llvm
        return dot_u8i8_ir(b, args[0], b.bitcast(args[1], lanes), b.bitcast(args[2], lanes))

    return acc(acc, u, s), emit


# --- conversion and arrangement -------------------------------------------------------------------------------------


@intrinsic
def splat_f32x16(typing_context: Any, scalar: Any) -> Any:
    return f32x16(types.float32), lambda context, b, sig, args: splat_ir(b, args[0], 16)


@intrinsic
def splat_i32x16(typing_context: Any, scalar: Any) -> Any:
    return i32x16(types.int32), lambda context, b, sig, args: splat_ir(b, args[0], 16)


def _zero(of: Vec) -> Any:
    @intrinsic
    def zero(typing_context: Any) -> Any:
        return of(), lambda context, b, sig, args: ir.Constant(of.llvm, None)

    return zero


zero_f32x16 = _zero(f32x16)
zero_i32x16 = _zero(i32x16)
zero_i32x8 = _zero(i32x8)


@intrinsic
def to_f32(typing_context: Any, x: Any) -> Any:
    """i32 (rounded to nearest) or f16 (exact) lanes as f32."""
    result = Vec("f32", x.n)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.fpext(args[0], result.llvm) if x.element == "f16" else b.sitofp(args[0], result.llvm)

    return result(x), emit


@intrinsic
def to_f16(typing_context: Any, x: Any) -> Any:
    result = Vec("f16", x.n)
    return result(x), lambda context, b, sig, args: b.fptrunc(args[0], result.llvm)


@intrinsic
def round_to_i32(typing_context: Any, x: Any) -> Any:
    """The nearest integer, ties to even, for |x| < 2**22.

    Adding 1.5 * 2**23 leaves the integer in the low mantissa bits: plain IEEE, no rounding instruction to differ.
    """
    result = Vec("i32", x.n)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        shifted = b.fadd(args[0], constant(x.llvm, 12582912.0))
        return b.sub(b.bitcast(shifted, result.llvm), constant(result.llvm, 0x4B400000))

    return result(x), emit


@intrinsic
def sign_extend(typing_context: Any, x: Any) -> Any:
    """i8 or i16 lanes as i32."""
    result = Vec("i32", x.n)
    return result(x), lambda context, b, sig, args: b.sext(args[0], result.llvm)


@intrinsic
def zero_extend(typing_context: Any, x: Any) -> Any:
    """i8 or i16 lanes, read as unsigned, as i32."""
    result = Vec("i32", x.n)
    return result(x), lambda context, b, sig, args: b.zext(args[0], result.llvm)


@intrinsic
def narrow_to_i8(typing_context: Any, x: Any) -> Any:
    result = Vec("i8", x.n)
    return result(x), lambda context, b, sig, args: b.trunc(args[0], result.llvm)


@intrinsic
def narrow_to_i16(typing_context: Any, x: Any) -> Any:
    result = Vec("i16", x.n)
    return result(x), lambda context, b, sig, args: b.trunc(args[0], result.llvm)


def _bitcast(to: Vec) -> Any:
    @intrinsic
    def cast(typing_context: Any, x: Any) -> Any:
        return to(x), lambda context, b, sig, args: b.bitcast(args[0], to.llvm)

    return cast


as_f32x16 = _bitcast(f32x16)
as_i32x16 = _bitcast(i32x16)
as_i8x64 = _bitcast(i8x64)
as_f16x16 = _bitcast(f16x16)
as_i16x32 = _bitcast(i16x32)


@intrinsic
def concat(typing_context: Any, low: Any, high: Any) -> Any:
    result = Vec(low.element, 2 * low.n)
    return result(low, low), lambda context, b, sig, args: join_ir(b, list(args))


@intrinsic
def spread(typing_context: Any, x: Any, pattern: Any) -> Any:
    """A shuffle within one vector; `pattern` is a literal string of lane numbers in base 36, one for each lane."""
    if not isinstance(pattern, types.StringLiteral):
        return None
    indices = [int(digit, 36) for digit in pattern.literal_value]
    result = Vec(x.element, len(indices))
    return result(x, pattern), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], indices)


@intrinsic
def first_lanes_or(typing_context: Any, x: Any, n: Any, other: Any) -> Any:
    """The first n lanes of x; the scalar `other` in the rest."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.select(_first_lanes(b, args[1], x.n), args[0], splat_ir(b, args[2], x.n))

    return x(x, types.intp, types.float32), emit


@intrinsic
def low_halves_f32(typing_context: Any, x: Any) -> Any:
    """The low 16 bits of every i32 lane, read as f16."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        halves = b.trunc(args[0], ir.VectorType(ir.IntType(16), x.n))
        return b.fpext(b.bitcast(halves, ir.VectorType(ir.HalfType(), x.n)), f32x16.llvm)

    return f32x16(x), emit


@intrinsic
def high_halves_f32(typing_context: Any, x: Any) -> Any:
    """The high 16 bits of every i32 lane, read as f16."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        halves = b.trunc(b.lshr(args[0], constant(x.llvm, 16)), ir.VectorType(ir.IntType(16), x.n))
        return b.fpext(b.bitcast(halves, ir.VectorType(ir.HalfType(), x.n)), f32x16.llvm)

    return f32x16(x), emit


@intrinsic
def widen_bytes(typing_context: Any, low: Any, high: Any) -> Any:
    """The eight bytes of two i32 scalars as an i32x8, unsigned."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        both = ir.Constant(ir.VectorType(I32, 2), ir.Undefined)
        both = b.insert_element(b.insert_element(both, args[0], I32(0)), args[1], I32(1))
        return b.zext(b.bitcast(both, ir.VectorType(ir.IntType(8), 8)), i32x8.llvm)

    return i32x8(types.int32, types.int32), emit


@intrinsic
def add_to_exponent(typing_context: Any, x: Any, n: Any) -> Any:
    """x * 2**n, for results that stay normal numbers."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        shifted = b.shl(args[1], constant(n.llvm, 23))
        return b.bitcast(b.add(b.bitcast(args[0], n.llvm), shifted), x.llvm)

    return x(x, n), emit


@intrinsic
def zero_where_less(typing_context: Any, x: Any, bound: Any, value: Any) -> Any:
    """`value` where x >= bound, else 0: also where x is NaN, so a NaN must be caught by its other uses."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        keep = b.fcmp_ordered(">=", args[0], splat_ir(b, args[1], x.n))
        return b.select(keep, args[2], ir.Constant(x.llvm, None))

    return x(x, types.float32, value), emit


@intrinsic
def sqrt_f32(typing_context: Any, x: Any) -> Any:
    """The correctly rounded square root, as IEEE has it."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, "llvm.sqrt.f32", ir.FloatType(), args[0])

    return types.float32(types.float32), emit


@intrinsic
def flip_even_signs(typing_context: Any, x: Any) -> Any:
    """-x in lanes 0, 2, 4 ...; x in the others."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        bits = ir.VectorType(I32, x.n)
        signs = ir.Constant(bits, [0x80000000 if lane % 2 == 0 else 0 for lane in range(x.n)])
        return b.bitcast(b.xor(b.bitcast(args[0], bits), signs), x.llvm)

    return x(x), emit


@intrinsic
def first_lane(typing_context: Any, x: Any) -> Any:
    return types.float32(x), lambda context, b, sig, args: b.extract_element(args[0], I32(0))
