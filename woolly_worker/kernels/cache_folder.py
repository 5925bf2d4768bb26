"""The folders of compiled kernels: one for each version, CPU and set of libraries; old ones leave by themselves.

A folder's `lock` is what processes that compile take turns on; its time of change says when the folder was last used.
Nothing is removed that does not look like such a folder: people may share the place with other things.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: processes that compile at the same time each keep their own result
    fcntl = None  # type: ignore[assignment]

KEEP_SECONDS = 30 * 24 * 3600
_LOCK = "lock"
_NAME = re.compile(r".+-[0-9a-f]{16}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time. Makes the folder if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def use(folder: Path) -> None:
    """Note that the folder is in use, and remove its neighbours that nobody has used for 30 days."""
    with contextlib.suppress(OSError):  # it may not be there yet, or not be ours to write
        os.utime(folder / _LOCK)
    oldest = time.time() - KEEP_SECONDS
    with contextlib.suppress(OSError):
        for neighbour in folder.parent.iterdir():
            if neighbour != folder and _NAME.fullmatch(neighbour.name):
                _remove_if_unused_since(neighbour, oldest)


def _remove_if_unused_since(folder: Path, oldest: float) -> None:
    """An older version that starts at this very moment finds nothing, and compiles as on a new machine. One that
    compiles holds the lock, and keeps its folder."""
    with contextlib.suppress(OSError), open(folder / _LOCK) as lock:
        if os.fstat(lock.fileno()).st_mtime >= oldest:
            return
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed first: whoever looks for the folder finds all of it, or nothing.
        leaving = folder.with_name(f"{folder.name}.removed-{os.getpid()}")
        folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
