"""Verbs over memory that several threads write to, and how they wait for each other."""

import platform
import sys
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function

from woolly_worker.kernels.simd.lowering import Builder, Value, call_ir, pointer, verb
from woolly_worker.kernels.simd.vectors import I32, I64

_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None


@verb
def fetch_add(typing_context: Any, address: Any, n: Any) -> Any:
    """Add to a shared int64 and return what it was before."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.atomic_rmw("add", pointer(b, args[0], I64), args[1], "seq_cst")

    return types.int64(types.intp, types.int64), emit


@verb
def load_shared(typing_context: Any, address: Any) -> Any:
    """Sequentially consistent, like `fetch_add`: who parks says so and then looks at the word, who changes the word
    then looks for sleepers. At least one of them must see the other, which an acquire alone would not promise on ARM.
    """

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.load_atomic(pointer(b, args[0], I64), "seq_cst", 8)

    return types.int64(types.intp), emit


@verb
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        if platform.machine() in ("x86_64", "AMD64"):
            call_ir(b, "llvm.x86.sse2.pause", ir.VoidType())
        elif platform.machine() in ("aarch64", "arm64"):
            call_ir(b, "llvm.aarch64.hint", ir.VoidType(), I32(1))
        return context.get_dummy_value()

    return types.void(), emit


@verb
def futex(typing_context: Any, address: Any, operation: Any, value: Any) -> Any:
    """Sleep while the word still has this value, or wake as many sleepers; elsewhere than on Linux: yield."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        if _FUTEX_NUMBER is None:
            b.call(get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), [])
        else:
            signature = ir.FunctionType(I64, [I64], var_arg=True)
            call = get_or_insert_function(b.module, signature, "syscall")
            none = I64(0)
            b.call(call, [I64(_FUTEX_NUMBER), args[0], args[1], args[2], none, none, none])
        return context.get_dummy_value()

    return types.void(types.intp, types.int64, types.int64), emit


@verb
def call_op(typing_context: Any, function: Any, args: Any, step: Any, member: Any, counter: Any) -> Any:
    """Call an operation through its address."""

    def emit(context: Any, b: Builder, sig: Any, values: Any) -> Value:
        signature = ir.FunctionType(ir.VoidType(), [I64] * 4)
        b.call(b.inttoptr(values[0], signature.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), emit
