"""Compile what a program needs before it is asked for, by as many processes as there are CPUs.

A process compiles one operation at a time, whatever its threads: Numba has one lock. A first start therefore has
helpers, processes that compile the same operations in another order and leave them in the cache. Nothing depends on
them: what a helper was at when it died is compiled here.

    python -m woolly_worker.kernels.compile_ahead matmul_q4_k rope_and_file_f16
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from woolly_worker.kernels import attention, cache_folder, experts, rmsnorm, rope, swiglu
from woolly_worker.kernels.cpu import allowed_cpus
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import LazyOp

CompileProgress = Callable[[int, int], None]  # (how many operations are ready, how many there are)

MOST_HELPERS = 3  # a program has about ten operations, and a helper takes 200 MB while it lives


def all_operations() -> dict[str, LazyOp]:
    """Every operation that a program may have, by its name."""
    elementwise = [value for module in (attention, experts, rmsnorm, rope, swiglu) for value in vars(module).values()]
    of_formats = [op for format_ in FORMATS.values() for op in (format_.matmul, format_.embed)]
    return {op.__name__: op for op in (*elementwise, *of_formats) if isinstance(op, LazyOp)}


def prepare(operations: Sequence[LazyOp], progress: CompileProgress) -> None:
    """Have all of them in this process: from the disk, compiled here, or compiled by a helper. `progress` hears of the
    start, and of each that is there."""
    n_ready = 0
    progress(n_ready, len(operations))
    left = sorted(operations, key=_takes_a_moment)
    with _helpers([op.__name__ for op in left if not op.is_on_disk()]):
        # What another process is at is passed over, and will be on disk when the rest is done.
        for wait in (False, True):
            for op in tuple(left):
                if op.prepare(wait=wait):
                    left.remove(op)
                    n_ready += 1
                    progress(n_ready, len(operations))


def _takes_a_moment(op: LazyOp) -> bool:
    """Not seconds: these come last, because they fill what time the large ones leave to one of the processes."""
    return not op.__name__.startswith(("attention", "matmul"))


@contextlib.contextmanager
def _helpers(names: Sequence[str]) -> Iterator[None]:
    """One for each CPU beside ours. We take the first name, and each helper another one; then whatever is left."""
    n_helpers = min(allowed_cpus() - 1, len(names) - 1, MOST_HELPERS) if cache_folder.CAN_LOCK else 0
    running = [_helper([*names[i:], *names[:i]]) for i in range(1, n_helpers + 1)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _helper(names: Sequence[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "woolly_worker.kernels.compile_ahead", *names]
    silent = subprocess.DEVNULL  # what it could say is said here, when this process meets the same
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent)


def _end_with_parent() -> None:
    """Whose end closes our standard input, however it comes."""
    sys.stdin.read()
    os._exit(1)


def _help(names: Sequence[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    known = all_operations()
    for name in names:
        known[name].prepare(wait=False)


if __name__ == "__main__":
    _help(sys.argv[1:])
