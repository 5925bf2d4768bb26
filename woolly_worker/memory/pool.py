"""BufferPool: one arena of memory, taken once, from which scratch buffers are lent.

It never grows and never takes memory later: a lease that does not fit is refused with the two numbers. A lease comes
back at the end of its `with`, by `release()`, or when nothing refers to it any more; after that its array must not be
used. Contents are undefined at the beginning of a lease.
"""

import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from woolly_worker.contract.errors import PoolExhausted

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector


def aligned(n_bytes: int) -> int:
    """`n_bytes` rounded up to whole cache lines; the share of the arena that a lease of that size takes."""
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


# Buffers are counted by size: a class's name, and the size in bytes from which the next one begins.
SIZE_CLASSES = (("under_1kb", 1 << 10), ("1kb_to_1mb", 1 << 20), ("above_1mb", None))


def size_class(n_bytes: int) -> str:
    return next(name for name, end in SIZE_CLASSES if end is None or n_bytes < end)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Leases of one size class. A lease is reused if all of its memory had been lent before."""

    used_bytes: int = 0
    n_leases: int = 0  # lent out now
    n_leases_ever: int = 0
    n_reused_ever: int = 0


@dataclass(frozen=True, slots=True)
class PoolFigures:
    n_bytes: int
    used_bytes: int
    peak_bytes: int
    n_leases: int  # lent out now
    n_leases_ever: int
    classes: dict[str, ClassFigures]  # by the names of SIZE_CLASSES


class Lease:
    """A buffer lent by a pool. `array` is valid until the lease is released; releasing twice does no harm."""

    def __init__(self, array: NDArray[Any], give_back: Callable[[int], None], start: int) -> None:
        self.array = array
        self._give_back = weakref.finalize(self, give_back, start)

    def release(self) -> None:
        self._give_back()

    def __enter__(self) -> NDArray[Any]:
        return self.array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class BufferPool:
    """An arena of `n_bytes`, lent in pieces that start on cache lines. Thread-safe."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = aligned(n_bytes)
        self._arena = np.frombuffer(mmap.mmap(-1, max(self.n_bytes, ALIGNMENT_BYTES)), dtype=np.uint8)
        self._gaps: list[tuple[int, int]] = [(0, self.n_bytes)] if self.n_bytes else []  # (start, end), ascending
        # A lease may be collected at any moment, even within a method of the pool that holds the lock. So it comes
        # back without a lock, into a queue; whoever looks at the gaps next files it.
        self._returned: deque[int] = deque()
        self._lock = threading.Lock()
        self._leases: dict[int, int] = {}  # start -> end
        self._peak_bytes = 0
        # The memory that was ever lent is [0, _fresh_from): a lease begins where a gap begins, never behind this mark.
        self._fresh_from = 0
        self._n_leases_ever = dict.fromkeys((name for name, _ in SIZE_CLASSES), 0)
        self._n_reused_ever = dict.fromkeys(self._n_leases_ever, 0)

    def lease(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Lease:
        """A C-contiguous array of that shape, 64-byte aligned. PoolExhausted when no gap is long enough."""
        kind = np.dtype(dtype)
        n_bytes = kind.itemsize * math.prod(shape if isinstance(shape, tuple) else (shape,))
        with self._lock:
            self._file_returned()
            start = self._take(max(aligned(n_bytes), ALIGNMENT_BYTES))
            self._count(start)
            self._peak_bytes = max(self._peak_bytes, self._used_bytes())
        array = self._arena[start : start + n_bytes].view(kind).reshape(shape)
        return Lease(array, self._returned.append, start)

    def figures(self) -> PoolFigures:
        with self._lock:
            self._file_returned()
            return PoolFigures(
                n_bytes=self.n_bytes,
                used_bytes=self._used_bytes(),
                peak_bytes=self._peak_bytes,
                n_leases=len(self._leases),
                n_leases_ever=sum(self._n_leases_ever.values()),
                classes={name: self._class_figures(name) for name, _ in SIZE_CLASSES},
            )

    def check_invariants(self) -> None:
        """Raise AssertionError unless gaps and leases tile the arena exactly."""
        with self._lock:
            self._file_returned()
            end = 0
            for start, stop in sorted([*self._gaps, *self._leases.items()]):
                if start != end or stop <= start:
                    raise AssertionError(f"buffer pool: byte {start} follows byte {end}")
                end = stop
            if end != self.n_bytes:
                raise AssertionError(f"buffer pool: {end} of {self.n_bytes} bytes are accounted for")
            if any(left[1] == right[0] for left, right in pairwise(self._gaps)):
                raise AssertionError("buffer pool: two gaps touch")

    def _count(self, start: int) -> None:
        end = self._leases[start]
        name = size_class(end - start)
        self._n_leases_ever[name] += 1
        self._n_reused_ever[name] += end <= self._fresh_from
        self._fresh_from = max(self._fresh_from, end)

    def _class_figures(self, name: str) -> ClassFigures:
        sizes = [end - start for start, end in self._leases.items() if size_class(end - start) == name]
        return ClassFigures(sum(sizes), len(sizes), self._n_leases_ever[name], self._n_reused_ever[name])

    def _used_bytes(self) -> int:
        return sum(end - start for start, end in self._leases.items())

    def _take(self, n_bytes: int) -> int:
        for i, (start, end) in enumerate(self._gaps):  # first fit: leases are few and mostly as old as the process
            if end - start >= n_bytes:
                self._gaps[i : i + 1] = [(start + n_bytes, end)] if end - start > n_bytes else []
                self._leases[start] = start + n_bytes
                return start
        longest = max((end - start for start, end in self._gaps), default=0)
        raise PoolExhausted(f"a buffer of {n_bytes} bytes is wanted, the longest free run is {longest} bytes")

    def _file_returned(self) -> None:
        while self._returned:
            start = self._returned.popleft()
            end = self._leases.pop(start)
            at = sum(1 for gap in self._gaps if gap[0] < start)
            if at < len(self._gaps) and self._gaps[at][0] == end:
                end = self._gaps.pop(at)[1]
            if at > 0 and self._gaps[at - 1][1] == start:
                start = self._gaps.pop(at - 1)[0]
                at -= 1
            self._gaps.insert(at, (start, end))
