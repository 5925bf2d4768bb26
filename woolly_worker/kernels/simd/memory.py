"""Verbs between memory and registers. Addresses are plain integers in bytes; nothing here checks them."""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    call_ir,
    extend_half_ir,
    load_ir,
    pointer,
    splat_ir,
    store_ir,
    truncate_to_half_ir,
    verb,
)
from woolly_worker.kernels.simd.vectors import (
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
    i32x8,
    i32x16,
)


def _loader(vec: Vec) -> Any:
    @verb
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


@verb
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a vector, of any type."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        store_ir(b, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.intp, value), emit


def _scalar_loader(element: str, numba_type: Any, extend: str | None) -> Any:
    @verb
    def load(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            value = load_ir(b, args[0], ELEMENTS[element])
            if extend is None:
                return value
            if element == "f16":
                return extend_half_ir(b, value)
            return getattr(b, extend)(value, context.get_value_type(numba_type))

        return numba_type(types.intp), emit

    return load


load_f32 = _scalar_loader("f32", types.float32, None)
load_f16 = _scalar_loader("f16", types.float32, "exactly")
load_i32 = _scalar_loader("i32", types.int32, None)
load_i16 = _scalar_loader("i16", types.int32, "sext")
load_i64 = _scalar_loader("i64", types.int64, None)
load_u8 = _scalar_loader("i8", types.int32, "zext")
load_i8 = _scalar_loader("i8", types.int32, "sext")


def _scalar_storer(element: str, numba_type: Any, narrow: str | None) -> Any:
    @verb
    def store_scalar(typing_context: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            value = args[1]
            if element == "f16":
                value = truncate_to_half_ir(b, value)
            elif narrow is not None:
                value = getattr(b, narrow)(value, ELEMENTS[element])
            store_ir(b, args[0], value)
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), emit

    return store_scalar


store_f32 = _scalar_storer("f32", types.float32, None)
store_f16 = _scalar_storer("f16", types.float32, "to nearest, ties to even")
store_i32 = _scalar_storer("i32", types.int32, None)
store_i16 = _scalar_storer("i16", types.int32, "trunc")
store_i8 = _scalar_storer("i8", types.int32, "trunc")
store_i64 = _scalar_storer("i64", types.int64, None)


def _partial_loader(vec: Vec) -> Any:
    @verb
    def load(typing_context: Any, address: Any, n: Any) -> Any:
        """The first n lanes; the rest are zero, and their bytes are not touched."""

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            mask = first_lanes_ir(b, args[1], vec.n)
            name = f"llvm.masked.load.v{vec.n}{vec.element}.p0"
            return call_ir(b, name, vec.llvm, pointer(b, args[0], vec.llvm), I32(1), mask, ir.Constant(vec.llvm, None))

        return vec(types.intp, types.intp), emit

    return load


def first_lanes_ir(b: Builder, n: Value, lanes: int) -> Value:
    index = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return b.icmp_signed("<", index, splat_ir(b, n, lanes))


load_first_f32x16 = _partial_loader(f32x16)
load_first_i16x16 = _partial_loader(i16x16)  # bf16 and f16 bit patterns


@verb
def store_first(typing_context: Any, address: Any, value: Any, n: Any) -> Any:
    """Write the first n lanes only."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        vec = sig.args[1]
        name = f"llvm.masked.store.v{vec.n}{vec.element}.p0"
        mask = first_lanes_ir(b, args[2], vec.n)
        call_ir(b, name, ir.VoidType(), args[1], pointer(b, args[0], vec.llvm), I32(1), mask)
        return context.get_dummy_value()

    return types.void(types.intp, value, types.intp), emit


def _apart_storer(item: ir.Type, doc: str) -> Any:
    @verb
    def store_items(typing_context: Any, address: Any, stride: Any, value: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            n = sig.args[2].n * 8 // item.width
            items = b.bitcast(args[2], ir.VectorType(item, n))
            for i in range(n):
                store_ir(b, b.add(args[0], b.mul(args[1], I64(i))), b.extract_element(items, I32(i)))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, value), emit

    store_items.__doc__ = doc
    return store_items


store_apart = _apart_storer(I32, "A vector of bytes, four by four: bytes 4 i .. 4 i + 3 to address + i * stride.")
store_bytes_apart = _apart_storer(ELEMENTS["i8"], "A vector of bytes, one by one: byte i to address + i * stride.")


def _ask_ir(b: Builder, address: Value) -> None:
    call_ir(b, "llvm.prefetch.p0", ir.VoidType(), pointer(b, address, ir.IntType(8)), I32(0), I32(2), I32(1))


@verb
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address that may lie anywhere: a prefetch never faults. LLVM may move it."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        _ask_ir(b, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@verb
def prefetch_here(typing_context: Any, address: Any) -> Any:
    """The same, behind the loads before it: it follows an empty piece of assembly, over which LLVM moves no access to
    memory."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
        _ask_ir(b, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), emit
