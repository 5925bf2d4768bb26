"""The folders of compiled kernels: one for each version, CPU and set of libraries; old ones leave by themselves.

Processes that compile take turns on one thing at a time, each of which has a lock of its own; meanwhile they share the
folder's `lock`. That one's time of change says when the folder was last used. Nothing is removed that does not look
like such a folder: people may share the place with other things.
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

CAN_LOCK = fcntl is not None
KEEP_SECONDS = 30 * 24 * 3600
_LOCK = "lock"
_NAME = re.compile(r".+-[0-9a-f]{16}")


@contextlib.contextmanager
def locked(folder: Path, thing: str, *, wait: bool = True) -> Iterator[bool]:
    """One process at a time has `thing`, a name for a file. Makes the folder if need be; nobody removes it meanwhile.

    Yields whether the thing is ours; it may not be only if we do not `wait` for whoever has it. In a folder that cannot
    be written it is everybody's: they cannot leave anything there either.
    """
    with contextlib.ExitStack() as files:
        is_ours = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shared = files.enter_context(open(folder / _LOCK, "a+"))  # to be read too: NFS wants that for a shared lock
            own = files.enter_context(open(folder / f"{thing}.lock", "a+"))
            if fcntl is not None:
                fcntl.flock(shared, fcntl.LOCK_SH)
                fcntl.flock(own, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_ours = False
        except OSError:
            pass
        yield is_ours


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
    compiles has a share of the lock, and keeps its folder."""
    with contextlib.suppress(OSError), open(folder / _LOCK, "r+") as lock:
        if os.fstat(lock.fileno()).st_mtime >= oldest:
            return
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed first: whoever looks for the folder finds all of it, or nothing.
        leaving = folder.with_name(f"{folder.name}.removed-{os.getpid()}")
        folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
