"""Reads values off the head of a GGUF file, each one checked against what is left of the file.

Nothing is allocated for a length before the file is known to hold that many bytes, so a damaged count costs an
error, not memory. Tensors and alignment are the reader's business.
"""

from struct import Struct

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import GGUFFormatError
from woolly_worker.gguf.metadata import MetadataValue
from woolly_worker.gguf.types import ValueType

_U32 = Struct("<I")
_U64 = Struct("<Q")

_SCALARS: dict[int, Struct] = {
    ValueType.UINT8: Struct("<B"),
    ValueType.INT8: Struct("<b"),
    ValueType.UINT16: Struct("<H"),
    ValueType.INT16: Struct("<h"),
    ValueType.UINT32: _U32,
    ValueType.INT32: Struct("<i"),
    ValueType.FLOAT32: Struct("<f"),
    ValueType.UINT64: _U64,
    ValueType.INT64: Struct("<q"),
    ValueType.FLOAT64: Struct("<d"),
}
_DTYPES: dict[int, np.dtype[np.generic]] = {
    kind: np.dtype(layout.format.replace("b", "i1").replace("B", "u1")) for kind, layout in _SCALARS.items()
}


def quote(text: str) -> str:
    """A name out of the file, as it may stand in an error message: printable, and no longer than a line."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


class Cursor:
    """A position in the mapped file that can only be moved by reading."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0

    def need(self, n_bytes: int, what: str) -> None:
        """Raise unless the file holds `n_bytes` more."""
        left = self.size - self.position
        if n_bytes > left:
            raise GGUFFormatError(
                f"{what} needs {n_bytes:,} bytes at offset {self.position:,}, the file has {left:,} left"
            )

    def take(self, n_bytes: int, what: str) -> memoryview:
        self.need(n_bytes, what)
        start = self.position
        self.position = start + n_bytes
        return self.buffer[start : self.position]

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def count(self, least_bytes_each: int, what: str) -> int:
        """A number of things of which each takes at least `least_bytes_each` bytes of the rest of the file."""
        n = self.u64(what)
        possible = (self.size - self.position) // least_bytes_each
        if n > possible:
            raise GGUFFormatError(f"{what} is {n:,}, but the rest of the file has room for {possible:,} at most")
        return n

    def text(self, what: str) -> str:
        n_bytes = self.u64(f"the length of {what}")
        raw = self.take(n_bytes, what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise GGUFFormatError(f"{what} is not UTF-8: byte {error.start} of {n_bytes:,}: {error.reason}") from None

    def value(self, key: str) -> MetadataValue:
        """The metadata value of `key`: its type, then the value itself."""
        name = quote(key)
        kind = self.u32(f"the type of {name}")
        if kind == ValueType.ARRAY:
            return self._array(name)
        if kind == ValueType.STRING:
            return self.text(f"the value of {name}")
        if kind == ValueType.BOOL:
            return _boolean(self.take(1, f"the value of {name}")[0], name)
        layout = _SCALARS.get(kind)
        if layout is None:
            raise _unknown_type(name, kind)
        number: int | float = layout.unpack(self.take(layout.size, f"the value of {name}"))[0]
        return number

    def _array(self, name: str) -> MetadataValue:
        kind = self.u32(f"the element type of {name}")
        if kind == ValueType.STRING:
            return self._strings(name)
        if kind == ValueType.ARRAY:
            raise GGUFFormatError(f"{name} is an array of arrays, which no GGUF reader supports")
        dtype = np.dtype(np.uint8) if kind == ValueType.BOOL else _DTYPES.get(kind)
        if dtype is None:
            raise _unknown_type(name, kind)
        n = self.count(dtype.itemsize, f"the length of {name}")
        # A copy, because the bytes may be unaligned and should not keep the mapping alive.
        values: npt.NDArray[np.generic] = np.frombuffer(self.take(n * dtype.itemsize, name), dtype).copy()
        if kind == ValueType.BOOL:
            if n and int(values.max()) > 1:
                _boolean(int(values.max()), name)
            values = values.astype(np.bool_)
        return values

    def _strings(self, name: str) -> list[str]:
        """Vocabularies have 150,000 of these, so the loop is written for speed: locals, no call per string."""
        n = self.count(8, f"the length of {name}")
        buffer, size, position = self.buffer, self.size, self.position
        length_at = _U64.unpack_from
        strings: list[str] = []
        for index in range(n):
            start = position + 8
            if start > size:
                raise GGUFFormatError(f"the file ends at {size:,}, inside element {index:,} of {n:,} of {name}")
            position = start + length_at(buffer, position)[0]
            if position > size:
                raise GGUFFormatError(
                    f"element {index:,} of {name} claims {position - start:,} bytes at offset {start:,}, "
                    f"the file has {size - start:,} left"
                )
            try:
                strings.append(str(buffer[start:position], "utf-8"))
            except UnicodeDecodeError as error:
                raise GGUFFormatError(
                    f"element {index:,} of {name} is not UTF-8: byte {error.start}: {error.reason}"
                ) from None
        self.position = position
        return strings


def _boolean(byte: int, name: str) -> bool:
    if byte > 1:
        raise GGUFFormatError(f"{name} is a bool with the value {byte}, allowed are 0 and 1")
    return byte == 1


def _unknown_type(name: str, kind: int) -> GGUFFormatError:
    return GGUFFormatError(f"{name} has the unknown value type {kind}, GGUF defines 0 to {max(ValueType)}")
