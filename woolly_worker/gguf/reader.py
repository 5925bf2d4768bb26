"""Maps a GGUF file and lists what it holds, after checking every length, offset, count and type against the file.

Kernels read raw addresses inside the mapping, so nothing leaves this file unchecked: a damaged file is a
GGUFFormatError that names the numbers that disagree. What the tensors mean is not known here. Big-endian files and
version 1 are refused. A file that is made shorter while it is mapped cannot be guarded against: touching the missing
pages ends the process (SIGBUS), so replace a model by renaming a new file over it.

Layout (docs/gguf.md of ggml): magic, version, number of tensors, number of key/value pairs, the pairs, the tensor
infos, padding to the alignment, tensor data.
"""

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import GGUFFormatError, ModelFileError
from woolly_worker.gguf.cursor import Cursor, quote
from woolly_worker.gguf.metadata import Metadata
from woolly_worker.gguf.types import DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, SUPPORTED_VERSIONS, GGMLType

# The least bytes that a pair (empty key, type, one byte) and a tensor info (empty name, one dimension) can take.
_LEAST_PAIR_BYTES = 8 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_MAX_ELEMENTS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. `shape[0]` is the row length (the fastest dimension), as GGUF writes it."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int  # bytes from the start of the file
    n_bytes: int

    @property
    def n_elements(self) -> int:
        n = 1
        for dimension in self.shape:
            n *= dimension
        return n


class GGUFFile:
    """A mapped file; everything is checked in the constructor.

    `data` is a read-only view of the whole mapping and `address` that of its first byte. Both end with `close()`.
    """

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]
    data: npt.NDArray[np.uint8]
    address: int
    state: "FileState"  # when it was opened

    def __init__(self, path: Path | str) -> None:
        """Raises ModelFileError if the file cannot be opened, GGUFFormatError if its bytes are wrong."""
        self.path = Path(path)
        self._map, self.state = _map_file(self.path)
        self.data = np.frombuffer(self._map, dtype=np.uint8)
        self.address = int(self.data.ctypes.data)
        try:
            with errors_naming(self.path), memoryview(self._map) as view:
                self._read(Cursor(view))
        except BaseException:
            self.close()
            raise

    def _read(self, cursor: Cursor) -> None:
        self.version = _read_version(cursor)
        n_tensors = cursor.count(_LEAST_TENSOR_BYTES, "the number of tensors")
        n_pairs = cursor.count(_LEAST_PAIR_BYTES, "the number of key/value pairs")
        values = {}
        for index in range(n_pairs):
            key = cursor.text(f"key {index:,} of {n_pairs:,}")
            if key in values:
                raise GGUFFormatError(f"the key {quote(key)} is there twice, the second time as number {index:,}")
            values[key] = cursor.value(key)
        self.metadata = Metadata(values)
        self.alignment = _alignment(self.metadata)
        relative = [_read_tensor_info(cursor, index, n_tensors, self.alignment) for index in range(n_tensors)]
        start = -(-cursor.position // self.alignment) * self.alignment
        self.tensors = MappingProxyType(_place_tensors(relative, start, cursor.size))

    @property
    def n_bytes(self) -> int:
        return int(self.data.size)

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's own bytes: a read-only view into the mapping."""
        info = self.tensors[name]
        return self.data[info.offset : info.offset + info.n_bytes]

    def tensor_address(self, name: str) -> int:
        return self.address + self.tensors[name].offset

    def close(self) -> None:
        """Unmap the file. While somebody still holds a view of it, the mapping lives on until that view is gone."""
        self.data = np.zeros(0, dtype=np.uint8)
        self.address = 0
        try:
            self._map.close()
        except BufferError:
            del self._map  # the last view's reference now owns it
            self._map = mmap.mmap(-1, 1)
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of the message of every ModelFileError that passes."""
    try:
        yield
    except ModelFileError as error:
        prefix = f"{path.name}: "
        if not error.message.startswith(prefix):
            error.message = prefix + error.message
            error.args = (error.message,)
        raise


class FileState(NamedTuple):
    """Which file, and what its file system says of its content."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _map_file(path: Path) -> tuple[mmap.mmap, FileState]:
    try:
        # Looked at before it is opened, because opening a named pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path}: not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    try:
        state = FileState.of(os.fstat(descriptor))
        size = state.n_bytes
        if size == 0:
            raise GGUFFormatError(f"{path.name}: the file is empty")
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ), state
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be mapped: {error.strerror or error}") from error
    finally:
        os.close(descriptor)


def _read_version(cursor: Cursor) -> int:
    magic = bytes(cursor.take(4, "the magic number"))
    if magic != MAGIC:
        raise GGUFFormatError(f"not a GGUF file: it starts with {magic!r}, a GGUF file with {MAGIC!r}")
    version = cursor.u32("the version")
    if version in SUPPORTED_VERSIONS:
        return version
    known = " and ".join(str(number) for number in SUPPORTED_VERSIONS)
    if version and version & 0xFFFF == 0:
        raise GGUFFormatError(
            f"the version reads {version:,}: this looks like a big-endian file, only little-endian ones are supported"
        )
    raise GGUFFormatError(f"the file is GGUF version {version}, supported are {known}")


def _alignment(metadata: Metadata) -> int:
    alignment = metadata.integer("general.alignment", DEFAULT_ALIGNMENT)
    if alignment < 8 or alignment & (alignment - 1):
        raise GGUFFormatError(f"'general.alignment' is {alignment}, it must be a power of two and at least 8")
    return alignment


def _read_tensor_info(cursor: Cursor, index: int, n_tensors: int, alignment: int) -> TensorInfo:
    """One tensor info; its offset is still that inside the data section."""
    name = cursor.text(f"the name of tensor {index:,} of {n_tensors:,}")
    label = f"tensor {quote(name)}"
    n_dimensions = cursor.u32(f"the number of dimensions of {label}")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise GGUFFormatError(f"{label} has {n_dimensions} dimensions, allowed are 1 to {MAX_DIMENSIONS}")
    shape = tuple(cursor.u64(f"the shape of {label}") for _ in range(n_dimensions))
    n_elements = 1
    for dimension in shape:
        n_elements *= dimension
    if n_elements == 0 or n_elements > _MAX_ELEMENTS:
        raise GGUFFormatError(f"{label} has the shape {shape}, {n_elements:,} elements; allowed are 1 to 2^63 - 1")
    number = cursor.u32(f"the type of {label}")
    try:
        kind = GGMLType(number)
    except ValueError:
        raise GGUFFormatError(
            f"{label} has the unknown type {number}, the highest known one is {max(GGMLType)} ({max(GGMLType).name})"
        ) from None
    if shape[0] % kind.block_size:
        raise GGUFFormatError(
            f"{label} has rows of {shape[0]:,} elements, no multiple of the {kind.block_size} in a {kind.name} block"
        )
    offset = cursor.u64(f"the offset of {label}")
    if offset % alignment:
        raise GGUFFormatError(f"{label} has the offset {offset:,}, no multiple of the alignment {alignment}")
    return TensorInfo(name, shape, kind, offset, n_elements // kind.block_size * kind.block_bytes)


def _place_tensors(relative: list[TensorInfo], start: int, file_size: int) -> dict[str, TensorInfo]:
    """The tensors by name, with offsets in the file: each inside the file, none overlapping another."""
    tensors: dict[str, TensorInfo] = {}
    for info in relative:
        if info.name in tensors:
            raise GGUFFormatError(f"there are two tensors named {quote(info.name)}")
        placed = TensorInfo(info.name, info.shape, info.type, start + info.offset, info.n_bytes)
        if placed.offset + placed.n_bytes > file_size:
            raise GGUFFormatError(
                f"tensor {quote(info.name)} ends at byte {placed.offset + placed.n_bytes:,}, "
                f"the file at {file_size:,}: it is damaged or was not copied completely"
            )
        tensors[info.name] = placed
    end, owner = start, ""
    for info in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if info.offset < end:
            raise GGUFFormatError(
                f"tensor {quote(info.name)} starts at byte {info.offset:,}, inside tensor {quote(owner)}, "
                f"which ends at {end:,}"
            )
        end, owner = info.offset + info.n_bytes, info.name
    return tensors
