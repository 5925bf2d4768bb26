"""Verbs from registers to registers: arithmetic, bits and reductions."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    call_ir,
    constant,
    dot_i16_ir,
    reduce_ir,
    select_by_bits_ir,
    shuffle_ir,
    splat_ir,
    verb,
)
from woolly_worker.kernels.simd.vectors import I32

F32X4 = ir.VectorType(ir.FloatType(), 4)


def _binary(name: str, float_op: str | None, int_op: str | None) -> Any:
    @verb
    def word(typing_context: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            op = float_op if x.element == "f32" else int_op
            assert op is not None, f"{name} is not defined for {x}"
            return getattr(b, op)(*args)

        return x(x, x), emit

    return word


add = _binary("add", "fadd", "add")
sub = _binary("sub", "fsub", "sub")
mul = _binary("mul", "fmul", "mul")
div = _binary("div", "fdiv", None)
band = _binary("band", None, "and_")
bor = _binary("bor", None, "or_")
bxor = _binary("bxor", None, "xor")


def _with_literal(int_op: str) -> Any:
    @verb
    def word(typing_context: Any, x: Any, literal: Any) -> Any:
        if not isinstance(literal, types.IntegerLiteral):
            return None
        value = literal.literal_value

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            return getattr(b, int_op)(args[0], constant(x.llvm, value))

        return x(x, literal), emit

    return word


and_bits = _with_literal("and_")
or_bits = _with_literal("or_")
xor_bits = _with_literal("xor")
minus_literal = _with_literal("sub")  # integers
shift_left = _with_literal("shl")
shift_right = _with_literal("lshr")  # zeros come in, lane by lane
shift_right_signed = _with_literal("ashr")


@verb
def filled_like(typing_context: Any, x: Any, literal: Any) -> Any:
    """The literal in every lane of an integer vector of x's type."""
    if not isinstance(literal, types.IntegerLiteral):
        return None
    value = literal.literal_value
    return x(x, literal), lambda context, b, sig, args: constant(x.llvm, value)


@verb
def choose(typing_context: Any, bits: Any, x: Any, y: Any) -> Any:
    """x in the lanes whose bit is set, else y. `bits` is an integer with a bit for each lane, the lowest for lane 0."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return select_by_bits_ir(b, *args)

    return x(getattr(types, f"int{x.n}"), x, x), emit


@verb
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, f"llvm.fma.v{x.n}f32", x.llvm, *args)

    return x(x, x, x), emit


@verb
def fma_scalar(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, "llvm.fma.f32", ir.FloatType(), *args)

    f32 = types.float32
    return f32(f32, f32, f32), emit


@verb
def negate(typing_context: Any, x: Any) -> Any:
    return x(x), lambda context, b, sig, args: b.fneg(args[0])


@verb
def absolute(typing_context: Any, x: Any) -> Any:
    return x(x), lambda context, b, sig, args: call_ir(b, f"llvm.fabs.v{x.n}f32", x.llvm, args[0])


def _pick_ir(comparison: str, element: str) -> Callable[[Builder, Value, Value], Value]:
    # A compare and a select, not llvm.maxnum: its treatment of NaN and -0 differs between CPUs.
    def pick(b: Builder, x: Value, y: Value) -> Value:
        compare = b.fcmp_ordered if element == "f32" else b.icmp_signed
        return b.select(compare(comparison, x, y), x, y)

    return pick


@verb
def maximum(typing_context: Any, x: Any, y: Any) -> Any:
    """x where x > y, else y: y where either is NaN."""
    return x(x, x), lambda context, b, sig, args: _pick_ir(">", x.element)(b, *args)


@verb
def minimum(typing_context: Any, x: Any, y: Any) -> Any:
    """x where x < y, else y: y where either is NaN."""
    return x(x, x), lambda context, b, sig, args: _pick_ir("<", x.element)(b, *args)


@verb
def hsum(typing_context: Any, x: Any) -> Any:
    """The sum of all lanes, halves folded onto each other."""
    scalar = types.float32 if x.element == "f32" else types.int32

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return reduce_ir(b, args[0], b.fadd if x.element == "f32" else b.add)

    return scalar(x), emit


@verb
def hmax(typing_context: Any, x: Any) -> Any:
    """The largest lane. Floats with a NaN among them give any lane."""
    scalar = types.float32 if x.element == "f32" else types.int32

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        pick = _pick_ir(">", x.element)
        return reduce_ir(b, args[0], lambda low, high: pick(b, low, high))

    return scalar(x), emit


@verb
def dot_i16(typing_context: Any, acc: Any, x: Any, y: Any) -> Any:
    """i32 lanes: acc[i] + the two products of 16-bit integers x[2 i], y[2 i] and x[2 i + 1], y[2 i + 1].

    With numbers of 16 bits in the lanes of x, and in those of y with their high halves cleared, it is acc + x * y in
    one instruction.
    """

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        lanes = acc.llvm
        return dot_i16_ir(b, args[0], b.bitcast(args[1], lanes), b.bitcast(args[2], lanes))

    return acc(acc, x, y), emit


def _shift_bytes_ir(b: Builder, x: Value, counts: list[int]) -> Value:
    lanes = ir.VectorType(ir.IntType(16), len(counts))
    y = b.bitcast(x, lanes)
    if max(counts) > 0:
        y = b.lshr(y, ir.Constant(lanes, [max(0, n) for n in counts]))
    if min(counts) < 0:
        y = b.shl(y, ir.Constant(lanes, [max(0, -n) for n in counts]))
    return b.bitcast(y, x.type)


@verb
def shift_halves(typing_context: Any, x: Any, low: Any, high: Any) -> Any:
    """64 bytes as 16-bit lanes: those of the first 32 bytes shifted right by `low`, the others by `high`; left where
    the literal is negative. Bits cross between the two bytes of a lane, so the caller masks."""
    if not isinstance(low, types.IntegerLiteral) or not isinstance(high, types.IntegerLiteral):
        return None
    counts = [low.literal_value] * 16 + [high.literal_value] * 16
    return x(x, low, high), lambda context, b, sig, args: _shift_bytes_ir(b, args[0], counts)


@verb
def shift_sixteens(typing_context: Any, x: Any, even: Any, odd: Any) -> Any:
    """The same for runs of sixteen bytes: the first and third by `even`, the second and fourth by `odd`."""
    if not isinstance(even, types.IntegerLiteral) or not isinstance(odd, types.IntegerLiteral):
        return None
    counts = ([even.literal_value] * 8 + [odd.literal_value] * 8) * 2
    return x(x, even, odd), lambda context, b, sig, args: _shift_bytes_ir(b, args[0], counts)


@verb
def add_to_exponent(typing_context: Any, x: Any, n: Any) -> Any:
    """x * 2**n, for results that stay normal numbers."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        shifted = b.shl(args[1], constant(n.llvm, 23))
        return b.bitcast(b.add(b.bitcast(args[0], n.llvm), shifted), x.llvm)

    return x(x, n), emit


@verb
def zero_where_less(typing_context: Any, x: Any, bound: Any, value: Any) -> Any:
    """`value` where x >= bound, else 0: also where x is NaN, so a NaN must be caught by its other uses."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        keep = b.fcmp_ordered(">=", args[0], splat_ir(b, args[1], x.n))
        return b.select(keep, args[2], ir.Constant(x.llvm, None))

    return x(x, types.float32, value), emit


@verb
def sqrt_f32(typing_context: Any, x: Any) -> Any:
    """The correctly rounded square root, as IEEE has it."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return call_ir(b, "llvm.sqrt.f32", ir.FloatType(), args[0])

    return types.float32(types.float32), emit


@verb
def hadamard(typing_context: Any, x: Any) -> Any:
    """H x with Walsh's and Hadamard's matrix of signs, not normalised: H H = n. Log2(n) rounds of sums and differences
    of the lanes that differ in one bit."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        value, step = args[0], 1
        while step < x.n:
            partner = shuffle_ir(b, value, value, [lane ^ step for lane in range(x.n)])
            signs = ir.Constant(x.llvm, [-1.0 if lane & step else 1.0 for lane in range(x.n)])
            value = b.fadd(partner, b.fmul(value, signs))
            step *= 2
        return value

    return x(x), emit


@verb
def flip_even_signs(typing_context: Any, x: Any) -> Any:
    """-x in lanes 0, 2, 4 ...; x in the others."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        bits = ir.VectorType(I32, x.n)
        signs = ir.Constant(bits, [0x80000000 if lane % 2 == 0 else 0 for lane in range(x.n)])
        return b.bitcast(b.xor(b.bitcast(args[0], bits), signs), x.llvm)

    return x(x), emit
