"""Keep Numba from finishing what is only a part of an operation.

Numba takes every function to machine code, and for that optimises it together with all that it calls; what is called
from six levels above is optimised seven times and translated six times for nothing. A part stays as it was lowered, and
LLVM optimises it once, with its operation. That halves the time of a first start, and the code is as fast; measured in
docs/design/0005-memory-and-start.md.

What is overridden here is private to Numba. Before the lock moves to another version, the tests would tell.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _NoEnvironment:
    """Numba puts the Python object that holds a function's globals where its machine code finds it. A part has no
    machine code, and kernels know no Python objects."""

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
        """No address: a part is not called from Python."""
        self._ensure_finalized()
        return 0


class PartCompiler(Compiler):
    """Numba's pipeline, into such a library."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        assert library is None, "a part's library is made here"
        super().__init__(typing_context, target_context, _PartLibrary(target_context.codegen(), "part"), *rest)
