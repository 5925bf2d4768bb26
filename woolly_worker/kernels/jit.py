"""The one place for Numba's options.

This module settles the target CPU and the cache folder before Numba reads its settings. Numba itself is imported when
something has to be compiled, not by a start whose operations are all on disk.

Numba's disk cache does not notice an edit in another file than the kernel's own. The cache folder's name therefore
carries a hash over all sources of this package, Numba's version and the target CPU: a change starts an empty folder.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llvmlite import binding as llvm

from woolly_worker.kernels import cache_folder, object_cache
from woolly_worker.kernels.cpu import CPU


def _source_hash() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode() + path.read_bytes())
    for package in ("numba", "llvmlite", "numpy", "gguf"):  # gguf: the grids of the i-quants
        digest.update(version(package).encode())
    digest.update(f"{CPU.tag} {CPU.features} {CPU.asks_ahead}".encode())
    return digest.hexdigest()[:16]


def _cache_root() -> Path:
    root = os.environ.get("WOOLLY_KERNEL_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "woolly" / "kernels"


CACHE_DIR = _cache_root() / f"{CPU.tag}-{_source_hash()}"

os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIR)
os.environ["NUMBA_CPU_NAME"] = CPU.model
os.environ["NUMBA_CPU_FEATURES"] = CPU.features

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",  # a division by zero is inf or nan, never a Python exception
    "boundscheck": False,  # kernels see addresses; callers check shapes once
    "fastmath": False,  # a reordered sum would break "same request, same bits"
}

# A part is compiled into whoever calls it, so it is neither cached by itself nor callable from Python.
_PART_OPTIONS = _OPTIONS | {"cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def filling_numba_cache() -> contextlib.AbstractContextManager[bool]:
    """For whoever calls a `kernel` for the first time while others may: several processes that fill Numba's own cache
    at once may crash it (its issue 4807). Operations do not go there: each has a lock of its own."""
    return cache_folder.locked(CACHE_DIR, "numba")


@functools.cache
def _use_cache() -> None:
    """Once per process."""
    cache_folder.use(CACHE_DIR)


@functools.cache
def _numba() -> Any:
    """Imported when something has to be compiled: that alone takes a quarter of a worker's start."""
    import numba
    from numba.core import config

    settings: Any = config
    settings.CACHE_DIR = str(CACHE_DIR)
    settings.CPU_NAME = CPU.model
    settings.CPU_FEATURES = CPU.features
    if CPU.level == "avx2":
        # LLVM turns a chain of sums into a tree, for its latency, and has no registers for the intermediate ones. An
        # option that a later LLVM does not know would end the process: the tests would tell, before a lock moves.
        llvm.set_option("woolly", "-x86-machine-combiner=false")
    return numba


class Deferred:
    """What kernels are written with, before Numba knows it: a function with its options, or a verb of `simd`. It is
    made when Numba meets it in a kernel that is compiled."""

    def __init__(self, make: Callable[[], Any], py_func: Any = None) -> None:
        self._make = make
        self.py_func = py_func  # the Python function, where there is one

    @functools.cached_property
    def real(self) -> Any:
        return self._make()

    @functools.cached_property
    def _numba_type_(self) -> Any:
        """Numba asks for this wherever a name stands for an object that it does not know."""
        from numba.core.registry import cpu_target

        real = self.real
        cpu_target.typing_context.refresh()  # it has read its registries, maybe before this was in one
        return cpu_target.typing_context.resolve_value_type(real)

    def __call__(self, *args: Any) -> Any:
        """From Python, for a `kernel`."""
        return self.real(*args)


def kernel(function: Any) -> Any:
    """Compile a function that Python calls with plain numbers.

    Operations call parts instead. A call that LLVM does not copy asks for a Python exception behind it, so that the
    operation's object file needs symbols of Numba's, and a start that finds it on disk has to import Numba for them.
    """
    return functools.update_wrapper(Deferred(lambda: _numba().njit(**_OPTIONS)(function), function), function)


def _part(function: Any, **options: Any) -> Any:
    def make() -> Any:
        njit = _numba().njit
        from woolly_worker.kernels.parts import PartCompiler  # imports Numba

        return njit(**_PART_OPTIONS, **options, pipeline_class=PartCompiler)(function)

    return functools.update_wrapper(Deferred(make, function), function)


def inline(function: Any) -> Any:
    """A kernel's part: always inlined by LLVM, so that vectors stay in registers across the call."""
    return _part(function, forceinline=True)


def subroutine(function: Any) -> Any:
    """A part that is called rather than copied: for what is large and used in several places of one operation."""
    return _part(function)


def compile_op(function: Any) -> Any:
    """A function of four integers as a `numba.cfunc`."""
    types = _numba().types
    return _numba().cfunc(types.void(*[types.intp] * 4), error_model="numpy")(function)


def op(function: Any) -> Any:
    """Compile one operation of a step program: `op(args, step, member, counter)`, four addresses or numbers.

    Operations are C functions, called through their address by `team.py`, so that a program contains any mix of them
    without being compiled itself.
    """
    return LazyOp(function)


class LazyOp:
    """An operation that is compiled, or taken from the disk cache, when its address is first asked for.

    Python may call one too, with four integers. The GIL is free meanwhile.
    """

    _PROTOTYPE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._address: int | None = None

    @property
    def address(self) -> int:
        """Of the machine code, which stays for as long as the process does."""
        if self._address is None:
            self.prepare()
            assert self._address is not None
        return self._address

    def is_there(self) -> bool:
        """In this process, or on disk."""
        return self._address is not None or object_cache.path_of(self.function, CACHE_DIR).exists()

    def prepare(self, *, wait: bool = True) -> bool:
        """Take it from disk, or compile it. Returns whether it is there: without `wait` it is not while another process
        compiles it."""
        _use_cache()
        file = object_cache.path_of(self.function, CACHE_DIR)
        self._address = self._address or object_cache.load(file)
        if self._address is None:
            with cache_folder.locked(CACHE_DIR, self.__name__, wait=wait) as is_ours:
                if is_ours:
                    self._address = object_cache.load(file)  # another process may have been at it
                    if self._address is None:
                        compiled = compile_op(self.function)
                        self._keep_alive = compiled
                        self._address = int(compiled.address)
                        object_cache.save(file, compiled)
        return self._address is not None

    @functools.cached_property
    def _call(self) -> Any:
        return self._PROTOTYPE(self.address)

    def __call__(self, args: int, step: int, member: int, counter: int) -> None:
        self._call(args, step, member, counter)
