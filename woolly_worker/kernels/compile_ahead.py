"""Compile what a program needs before it is asked for, by up to four processes.

A process compiles one operation at a time, whatever its threads: Numba has one lock. A first start therefore has
helpers, processes that compile the same operations in another order and leave them in the cache. Nothing depends on
them: what a helper was at when it died is compiled here.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from woolly_worker.kernels import attention, cache_folder, experts, rmsnorm, rope, swiglu, team
from woolly_worker.kernels.cpu import allowed_cpus
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import LazyOp

CompileProgress = Callable[[int, int], None]  # (how many operations are ready, how many there are)

MOST_HELPERS = 3  # a program has about ten operations, few of them large, and a helper takes 290 MB while it lives
PACKAGES = Path(__file__).parents[2]  # where a helper finds this package
EXIT_PARENT_ENDED = 3


def all_operations() -> dict[str, LazyOp]:
    """Every operation that a program may have, and those of a team, by its name."""
    modules = (attention, experts, rmsnorm, rope, swiglu, team)
    elementwise = [value for module in modules for value in vars(module).values()]
    of_formats = [op for format_ in FORMATS.values() for op in (format_.matmul, format_.embed)]
    return {op.__name__: op for op in (*elementwise, *of_formats) if isinstance(op, LazyOp)}


def prepare(operations: Sequence[LazyOp], progress: CompileProgress) -> None:
    """Have all of them in this process: from the disk, compiled here, or compiled by a helper. `progress` hears of the
    start, and of each that is there."""
    n_ready = 0
    progress(n_ready, len(operations))
    # We begin with the small ones, for something is soon there then, and helpers with the large ones.
    left = sorted(operations, key=_is_large)
    missing = sorted((op for op in left if not op.is_there()), key=_is_large, reverse=True)
    with _helpers([op.__name__ for op in missing], sum(map(_is_large, missing)) - 1):
        # What another process is at is passed over, and will be on disk when the rest is done.
        for wait in (False, True):
            for op in tuple(left):
                if op.prepare(wait=wait):
                    left.remove(op)
                    n_ready += 1
                    progress(n_ready, len(operations))


def _is_large(op: LazyOp) -> bool:
    """Takes seconds to compile, not a moment."""
    return op.__name__.startswith(("attention", "matmul"))


@contextlib.contextmanager
def _helpers(names: Sequence[str], most: int) -> Iterator[None]:
    """At most one for each CPU beside ours. The first name is left to us, each helper begins with another one; then it
    takes whatever is left."""
    n_helpers = min(allowed_cpus() - 1, most, MOST_HELPERS) if cache_folder.CAN_LOCK else 0
    running = []
    try:
        with contextlib.suppress(OSError):  # no more processes allowed: it goes without
            for i in range(1, n_helpers + 1):
                running.append(_helper([*names[i:], *names[:i]]))
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _helper(names: Sequence[str]) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "woolly_worker.kernels.compile_ahead", *names],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # an error is told by us, when we compile the same
    )


def _end_with_parent() -> None:
    """The parent's end, of whatever kind, closes our standard input."""
    sys.stdin.read()
    os._exit(EXIT_PARENT_ENDED)


def _help(names: Sequence[str]) -> None:
    """What a helper does: for its parent, whose memory is worth more than its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    known = all_operations()
    for name in names:
        known[name].prepare(wait=False)


if __name__ == "__main__":
    _help(sys.argv[1:])
