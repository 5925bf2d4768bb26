"""Verbs over the registers of a CPU's matrix unit (Intel's AMX): eight of them, up to 16 rows of 64 bytes each.

They are numbered by literals, since LLVM hands them through to the instructions as they are. Whoever uses them calls
`matrix_begin` first and `matrix_end` last: in between the kernel saves them at a switch of threads.

Only for CPUs whose level has_matrix_unit.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import Builder, Value, call_ir, constant, pointer, verb
from woolly_worker.kernels.simd.sizes import MATRIX_ROW_BYTES, MATRIX_ROWS
from woolly_worker.kernels.simd.vectors import I32, i8x64, i16x32, i32x16

I8 = ir.IntType(8)
_FEWER_ROWS = (2, 3, 7)  # registers of `matrix_begin`


def _begin_ir(context: Any, b: Builder, lengths: list[int], n_rows: list[Value]) -> Value:
    """`ldtilecfg` reads the palette, then sixteen times the bytes of a row, then sixteen times the number of rows."""
    bytes_of_rows = [byte for length in lengths for byte in (length, 0)]
    config = ir.Constant(ir.VectorType(I8, 64), [1, *[0] * 15, *bytes_of_rows, *[0] * 32])
    for register, n in enumerate(n_rows):
        config = b.insert_element(config, n, I32(48 + register))
    place = b.alloca(config.type)
    b.store(config, place)
    call_ir(b, "llvm.x86.ldtilecfg", ir.VoidType(), b.bitcast(place, I8.as_pointer()))
    return context.get_dummy_value()


@verb
def matrix_begin(typing_context: Any, n_rows: Any) -> Any:
    """Registers 2, 3 and 7 have `n_rows` rows, 1 to 16; the others have all sixteen."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        fewer = b.trunc(args[0], I8)
        rows = [fewer if register in _FEWER_ROWS else I8(MATRIX_ROWS) for register in range(8)]
        return _begin_ir(context, b, [MATRIX_ROW_BYTES] * 8, rows)

    return types.void(types.intp), emit


@verb
def matrix_begin_runs(typing_context: Any, n_rows: Any) -> Any:
    """For products of 32 columns: registers 4 and 6 have rows of 32 bytes, and 5 has eight rows of 64. Registers 2 and
    6 have `n_rows` rows, 1 to 16; the others are full."""
    lengths = [32 if register in (4, 6) else MATRIX_ROW_BYTES for register in range(8)]

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        rows = [I8(MATRIX_ROWS)] * 8
        rows[2] = rows[6] = b.trunc(args[0], I8)
        rows[5] = I8(8)
        return _begin_ir(context, b, lengths, rows)

    return types.void(types.intp), emit


def _call(b: Builder, name: str, registers: Sequence[Any], *rest: Value) -> None:
    call_ir(b, f"llvm.x86.{name}", ir.VoidType(), *[I8(register.literal_value) for register in registers], *rest)


def _are_literals(*registers: Any) -> bool:
    return all(isinstance(register, types.IntegerLiteral) for register in registers)


@verb
def matrix_end(typing_context: Any) -> Any:
    """The registers are free, and not saved any more."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        _call(b, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), emit


@verb
def matrix_zero(typing_context: Any, register: Any) -> Any:
    if not _are_literals(register):
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        _call(b, "tilezero", [register])
        return context.get_dummy_value()

    return types.void(register), emit


def _moved(name: str, doc: str) -> Any:
    @verb
    def move(typing_context: Any, register: Any, address: Any, stride: Any) -> Any:
        if not _are_literals(register):
            return None

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            _call(b, name, [register], pointer(b, args[1], I8), args[2])
            return context.get_dummy_value()

        return types.void(register, types.intp, types.intp), emit

    move.__doc__ = doc
    return move


matrix_load = _moved("tileloadd64", "As many rows as the register has, from address, address + stride, ...")
matrix_store = _moved("tilestored64", "As many rows as the register has, to address, address + stride, ...")


def _dot(name: str, doc: str) -> Any:
    @verb
    def dot(typing_context: Any, c: Any, a: Any, b: Any) -> Any:
        if not _are_literals(c, a, b):
            return None

        def emit(context: Any, builder: Builder, sig: Any, args: Any) -> Value:
            _call(builder, name, [c, a, b])
            return context.get_dummy_value()

        return types.void(c, a, b), emit

    dot.__doc__ = doc
    return dot


matrix_dot_u8i8 = _dot(
    "tdpbusd",
    """c[m, n] += sum over k < 64 of a[m, k] * b[k / 4, 4 n + k % 4], exact in i32.

    c  rows of 16 i32;   a  as many rows of 64 unsigned bytes;   b  16 rows of 16 times four signed bytes
    """,
)
matrix_dot_i8u8 = _dot("tdpbsud", "The same with signed bytes in `a`, unsigned ones in `b`.")
matrix_dot_i8i8 = _dot("tdpbssd", "The same with signed bytes in both.")


@verb
def pair_products(typing_context: Any, u: Any, s: Any) -> Any:
    """16-bit lanes: u[2 i] * s[2 i] + u[2 i + 1] * s[2 i + 1], of unsigned and signed bytes. The caller keeps the sums
    within 16 bits."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        bytes_ = [b.bitcast(a, i8x64.llvm) for a in args]
        return call_ir(b, "llvm.x86.avx512.pmaddubs.w.512", i16x32.llvm, *bytes_)

    return i16x32(u, s), emit


@verb
def interleave_bytes(typing_context: Any, even: Any, odd: Any, at: Any) -> Any:
    """Bytes of 16-bit lanes side by side: at = 0 takes the lower byte of both, at = 1 the upper ones.

    As a choice of bits, which LLVM would otherwise make a permutation of two vectors: three operations on Intel's CPUs.
    """
    if not isinstance(at, types.IntegerLiteral) or at.literal_value not in (0, 1):
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        eight, lower = constant(i16x32.llvm, 8), constant(i32x16.llvm, 0x00FF00FF)
        x, y = args[0], args[1]
        if at.literal_value == 0:
            y = b.shl(y, eight)
        else:
            x = b.lshr(x, eight)
        x, y = b.bitcast(x, i32x16.llvm), b.bitcast(y, i32x16.llvm)
        of_x_where_first_is_set = I32(0xCA)
        return call_ir(b, "llvm.x86.avx512.pternlog.d.512", i32x16.llvm, lower, x, y, of_x_where_first_is_set)

    return i32x16(even, odd, at), emit


@verb
def bytes_as_halves(typing_context: Any, x: Any, first: Any, last: Any) -> Any:
    """Byte `first` of every 32-bit lane in its lower half, byte `last` in its upper one, zero-extended: literals.

    By `vpshufb`, because LLVM is apt to make longer things of a choice of bytes.
    """
    if not _are_literals(first, last):
        return None
    zero = -128
    indices = [i for lane in range(0, 16, 4) for at in (first, last) for i in (lane + at.literal_value, zero)]

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        order = ir.Constant(i8x64.llvm, indices * 4)
        chosen = call_ir(b, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, b.bitcast(args[0], i8x64.llvm), order)
        return b.bitcast(chosen, i16x32.llvm)

    return i16x32(x, first, last), emit
