"""Bytes that end where forbidden memory begins: reading one too many, or writing any, ends the process at once.

That is what a tensor at the end of a mapped model file is like.
"""

import ctypes
import mmap
from types import TracebackType
from typing import Self

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class ReadOnly:
    """A copy of `content` whose last byte is the last of a read-only page, with an unreadable page behind it."""

    def __init__(self, content: bytes) -> None:
        n_bytes = -(-len(content) // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, n_bytes + _PAGE)
        self._map[n_bytes - len(content) : n_bytes] = content
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._n_bytes = n_bytes + _PAGE
        self.address = self._start + n_bytes - len(content)
        self._protect(self._start, n_bytes, mmap.PROT_READ)
        self._protect(self._start + n_bytes, _PAGE, 0)

    def _protect(self, start: int, n_bytes: int, rights: int) -> None:
        if _libc.mprotect(start, n_bytes, rights) != 0:
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._protect(self._start, self._n_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
        self._map.close()
