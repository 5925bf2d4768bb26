"""Verbs whose results are known when the kernel is compiled: constant lanes, and tables of sixteen bytes."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.simd.lowering import Builder, Value, call_ir, join_ir, shuffle_ir, verb
from woolly_worker.kernels.simd.vectors import Vec, i8x16

I8 = ir.IntType(8)


def _lanes(of: Vec) -> Any:
    @verb
    def lanes(typing_context: Any, pattern: Any) -> Any:
        """Constant lanes from a literal string of numbers in base 36, one for each lane."""
        if not isinstance(pattern, types.StringLiteral):
            return None
        values = [int(digit, 36) for digit in pattern.literal_value]
        return of(pattern), lambda context, b, sig, args: ir.Constant(of.llvm, values)

    return lanes


lanes_i8x16 = _lanes(i8x16)


@verb
def shift_right_by(typing_context: Any, x: Any, pattern: Any) -> Any:
    """Every lane shifted by a number of its own, zeros come in; `pattern` is a literal string as `spread`'s."""
    if not isinstance(pattern, types.StringLiteral):
        return None
    shifts = [int(digit, 36) for digit in pattern.literal_value]
    return x(x, pattern), lambda context, b, sig, args: b.lshr(args[0], ir.Constant(x.llvm, shifts))


def byte_table(make: Callable[[], Sequence[int]]) -> Any:
    """A verb that replaces every byte of a vector, 0..15, by one of sixteen bytes: byte_table(make)(x).

    make    returns sixteen numbers in 0..255; called when a kernel is compiled, not when it comes from the cache
    The vector may have lanes of any integer type; bytes above 15 give no defined result.
    """

    @verb
    def look_up(typing_context: Any, x: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            table = [I8(value) for value in make()]
            assert len(table) == 16
            n_bytes = x.n * x.llvm.element.width // 8
            indices = b.bitcast(args[0], ir.VectorType(I8, n_bytes))
            lower = _by_selection if CPU.level == "generic" else _by_shuffles
            return b.bitcast(lower(b, table, indices), x.llvm)

        return x(x), emit

    return look_up


_SHUFFLES = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


def _by_shuffles(b: Builder, table: list[ir.Constant], indices: Value) -> Value:
    """pshufb, on pieces as wide as the level has: it looks up in every 16 bytes by themselves."""
    n = indices.type.count
    width = min(n, 64 if CPU.has_avx512 else 32)
    piece = ir.VectorType(I8, width)
    tables = ir.Constant(piece, table * (width // 16))
    results = []
    for start in range(0, n, width):
        part = indices if n == width else shuffle_ir(b, indices, indices, list(range(start, start + width)))
        results.append(call_ir(b, _SHUFFLES[width], piece, tables, part))
    return join_ir(b, results)


def _by_selection(b: Builder, table: list[ir.Constant], indices: Value) -> Value:
    """Any CPU: every bit of the index, the lowest first, halves the values that are left."""
    vec = indices.type
    left: list[Value] = [ir.Constant(vec, [value] * vec.count) for value in table]
    for bit in range(4):
        ones = ir.Constant(vec, [I8(1 << bit)] * vec.count)
        is_set = b.icmp_unsigned("!=", b.and_(indices, ones), ir.Constant(vec, None))
        left = [b.select(is_set, left[i + 1], left[i]) for i in range(0, len(left), 2)]
    return left[0]
