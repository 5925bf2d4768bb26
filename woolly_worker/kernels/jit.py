"""The one place for Numba's options.

Import order matters: this module settles the target CPU and the cache folder before Numba reads its settings, so
every module of this package imports `jit` first.

Numba's disk cache does not notice an edit in another file than the kernel's own. The cache folder's name therefore
carries a hash over all sources of this package, Numba's version and the target CPU: a change starts an empty folder.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from woolly_worker.kernels.cpu import CPU

try:
    import fcntl
except ImportError:  # not a POSIX system: processes that compile at the same time each keep their own result
    fcntl = None  # type: ignore[assignment]


def _source_hash() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode() + path.read_bytes())
    for package in ("numba", "llvmlite", "numpy", "gguf"):  # from the last one come tables that kernels contain
        digest.update(version(package).encode())
    digest.update(f"{CPU.tag} {CPU.features}".encode())
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

import numba  # noqa: E402
from numba.core import config  # noqa: E402

_numba_config: Any = config

_numba_config.CACHE_DIR = str(CACHE_DIR)
_numba_config.CPU_NAME = CPU.model
_numba_config.CPU_FEATURES = CPU.features

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",  # a division by zero is inf or nan, never a Python exception
    "boundscheck": False,  # kernels see addresses; callers check shapes once
    "fastmath": False,  # a reordered sum would break "same request, same bits"
}

# A part is compiled into whoever calls it, so it is neither cached by itself nor callable from Python.
_PART_OPTIONS = _OPTIONS | {"cache": False, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """One process at a time fills the cache: several at once may crash Numba (its issue 4807), and would only do the
    same work twice."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    with open(CACHE_DIR / "lock", "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kernel(function: Any) -> Any:
    """Compile a function that other kernels call, or that Python calls with plain numbers."""
    return numba.njit(**_OPTIONS)(function)


def inline(function: Any) -> Any:
    """A kernel's part: always inlined by LLVM, so that vectors stay in registers across the call."""
    return numba.njit(**_PART_OPTIONS)(function)


OP_SIGNATURE = numba.types.void(numba.types.intp, numba.types.intp, numba.types.intp, numba.types.intp)


def op(function: Any) -> Any:
    """Compile one operation of a step program: `op(args, step, member, counter)`, four addresses or numbers.

    Operations are C functions, called through their address by `program.run`, so that a program contains any mix of
    them without being compiled itself. `error_model` is not a parameter of cfunc, hence the inner kernel.
    """
    return LazyOp(function)


class LazyOp:
    """An operation that is compiled (or taken from the disk cache) when its address is first asked for."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._compiled: Any = None

    @property
    def address(self) -> int:
        if self._compiled is None:
            cfunc: Any = numba.cfunc
            with compiling():
                self._compiled = cfunc(OP_SIGNATURE, cache=True, error_model="numpy")(self.function)
        return int(self._compiled.address)
