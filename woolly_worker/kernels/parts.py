"""Keep Numba from finishing what is only a part of an operation.

Numba takes every function to machine code, and for that optimises it together with all that it calls; what is called
from six levels above is optimised seven times and translated six times for nothing. A part stays as it was lowered, and
LLVM sees it once, inlined into its operation. That halves the time of a first start, and the code is as fast; measured
in docs/design/0005-memory-and-start.md.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _NoEnvironment:
    """Numba would put the Python object that holds a function's globals into its machine code."""

    def set_env(self, name: str, environment: object) -> None:
        pass


class _PartLibrary(JITCodeLibrary):
    """What a part is compiled into: something to link, not to run."""

    @property
    def codegen(self) -> _NoEnvironment:
        return _NoEnvironment()

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """None: a part is not called from Python."""
        self._ensure_finalized()
        return 0


class PartCompiler(Compiler):
    """Numba's pipeline, into such a library."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        part = _PartLibrary(target_context.codegen(), "part")
        super().__init__(typing_context, target_context, library or part, *rest)
