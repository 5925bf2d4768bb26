"""Compiles kernels for a 64-bit ARM on whatever machine this is, and prints their assembly. Nothing is executed.

    python arm_probe.py LEVEL KERNEL...

Numba asks LLVM for the process's own triple in one place; that is where it is told another one. A process that did this
can run no kernel, so it does nothing else.
"""

import platform
import sys
from typing import Any

platform.machine = lambda: "aarch64"
from llvmlite import binding as llvm  # noqa: E402

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
llvm.get_process_triple = lambda: "aarch64-unknown-linux-gnu"
llvm.check_jit_execution = lambda: None

from woolly_worker.kernels import cpu  # noqa: E402

LEVEL = sys.argv[1]
cpu.CPU = cpu.Cpu(LEVEL, cpu._MODEL[LEVEL], "")

from woolly_worker.kernels import attention  # noqa: E402
from woolly_worker.kernels.formats import q4_k  # noqa: E402

KERNELS: dict[str, tuple[Any, str]] = {
    "row_dot": (q4_k.IN_FOURS.row_dot.py_func, "float32(intp, intp, intp)"),
    "matmul": (q4_k.FORMAT.matmul.function, "void(intp, intp, intp, intp)"),
    "attention": (attention.attention_f16.function, "void(intp, intp, intp, intp)"),
}


def assembly(name: str) -> str:
    import numba

    function, signature = KERNELS[name]
    dispatcher: Any = numba.njit(signature, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )
    return str(dispatcher.inspect_asm(dispatcher.signatures[0]))


if __name__ == "__main__":
    for kernel in sys.argv[2:]:
        print(assembly(kernel))
