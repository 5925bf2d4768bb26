"""What the system is asked to do with memory: read a file before it is needed, keep it, use large pages.

All of it is advice about time. Nothing that is computed depends on it, so a system that knows none of these calls, or
refuses one, serves the same tokens.
"""

import ctypes
import mmap
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

READ_AHEAD_BYTES = 64 << 20  # between two looks at whether it is still wanted: less than half a second of most disks

# Linux 5.14. Numbers of the system's interface; Python's mmap module does not name all of them.
_MADV_POPULATE_READ = 22
_MADV_HUGEPAGE = 14
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def _whole_pages(address: int, n_bytes: int) -> tuple[int, int]:
    """The pages that a range touches: address and bytes."""
    start = address - address % mmap.PAGESIZE
    n_pages = -(-(address + n_bytes - start) // mmap.PAGESIZE)
    return start, n_pages * mmap.PAGESIZE


def _advise(address: int, n_bytes: int, advice: int) -> bool:
    """Whether the system took it. Waits without the GIL."""
    return sys.platform == "linux" and int(_libc.madvise(address, n_bytes, advice)) == 0


def use_huge_pages(address: int, n_bytes: int) -> bool:
    """Ask for pages of 2 MB where memory is not in use yet. False: this system has none.

    Of a file they come only while it is read from the disk (see `ReadAhead`), and only where the file system keeps such
    large pieces.
    """
    return _advise(*_whole_pages(address, n_bytes), _MADV_HUGEPAGE)


def lock(address: int, n_bytes: int) -> str | None:
    """Read a range into memory and keep it there, or say why that was refused."""
    if _libc.mlock(*_whole_pages(address, n_bytes)) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def lock_limit() -> int:
    """Bytes that this process may lock (RLIMIT_MEMLOCK); -1 is no limit."""
    import resource  # POSIX alone has it

    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


def resident_bytes(address: int, n_bytes: int) -> int:
    """How much of a mapping is in memory, in whole pages, whoever brought it there. Raises OSError."""
    start, length = _whole_pages(address, n_bytes)
    pages = np.zeros(length // mmap.PAGESIZE, np.uint8)
    if _libc.mincore(start, length, pages.ctypes.data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE


def locked_bytes() -> int | None:
    """Of this process, as /proc tells; None where there is no such thing."""
    return _kilobytes("/proc/self/status", "VmLck:")


def huge_page_bytes() -> int | None:
    """Of this process in pages of 2 MB, its own memory and mapped files. Walks the page table: not for every second."""
    return _kilobytes("/proc/self/smaps_rollup", "AnonHugePages:", "FilePmdMapped:")


def _kilobytes(path: str, *fields: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(fields))


def huge_bytes_of_mapping(address: int) -> int:
    """How much of the mapping around an address is in pages of 2 MB; 0 where nothing tells."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return 0
    is_inside = False
    for line in lines:
        if (head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)) is not None:
            is_inside = int(head[1], 16) <= address < int(head[2], 16)
        elif is_inside and line.startswith("FilePmdMapped:"):
            return int(line.split()[1]) << 10
    return 0


class ReadAhead:
    """A thread that brings a mapped file into memory, first page to last, before the steps that need it.

    The pages are entered into the page table as well, so that steps meet no faults. For what is in memory already
    this takes some 30 ms per GB. The mapping stays for as long as the thread runs.

    `large_pieces_of`: the mapped file, if it is to be read again where it lies in memory in small pages, as a file does
    that was written lately. Some file systems then bring it in pieces of 2 MB, and steps read weights a third faster.
    """

    def __init__(self, mapping: npt.NDArray[np.uint8], *, large_pieces_of: Path | None = None) -> None:
        self._mapping = mapping
        self._large_pieces_of = large_pieces_of
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        start, length = _whole_pages(self._mapping.ctypes.data, self._mapping.nbytes)
        for done in range(0, length, READ_AHEAD_BYTES):
            taken = _advise(start + done, min(READ_AHEAD_BYTES, length - done), _MADV_POPULATE_READ)
            if self._closing.is_set() or not taken:
                return  # an older kernel, or a disk that fails: steps will find out by themselves
        if self._large_pieces_of is not None and huge_bytes_of_mapping(start) < length // 2:
            self._read_again(start, length, self._large_pieces_of)

    def _read_again(self, start: int, length: int, path: Path) -> None:
        """Steps that run meanwhile find what they need on the disk, or keep it in memory by using it."""
        try:
            file = path.open("rb")
        except OSError:
            return  # it was moved or removed: the mapping stays as it is
        with file:
            os.fsync(file.fileno())  # what is still to be written stays in memory
            for done in range(0, length, READ_AHEAD_BYTES):
                n_bytes = min(READ_AHEAD_BYTES, length - done)
                _advise(start + done, n_bytes, _MADV_DONTNEED)
                os.posix_fadvise(file.fileno(), done, n_bytes, os.POSIX_FADV_DONTNEED)
                _advise(start + done, n_bytes, _MADV_POPULATE_READ)
                if self._closing.is_set() or (done == 0 and huge_bytes_of_mapping(start) < n_bytes // 2):
                    return  # this file system has no large pieces

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Whether it is through."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it at the next piece, and wait for that."""
        self._closing.set()
        self._thread.join()
