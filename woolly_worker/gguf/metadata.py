"""The key/value part of a GGUF file, with accessors that check the type of a value before handing it out.

No key has a meaning here: `model/config.py` and `model/tokenizer.py` know which ones they need.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import GGUFFormatError, ModelFileError

MetadataValue = int | float | bool | str | list[str] | npt.NDArray[Any]


class Metadata(Mapping[str, MetadataValue]):
    """A read-only mapping. Accessors raise ModelFileError for an absent key unless a default is given."""

    def __init__(self, values: dict[str, MetadataValue]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> MetadataValue:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _required(self, key: str) -> MetadataValue:
        value = self._values.get(key)
        if value is None:
            raise ModelFileError(f"the file has no key '{key}'")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        if default is not None and key not in self._values:
            return default
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(key, "an integer", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        if default is not None and key not in self._values:
            return default
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(key, "a number", value)
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        if default is not None and key not in self._values:
            return default
        value = self._required(key)
        if not isinstance(value, bool):
            raise _wrong_type(key, "a bool", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self._values:
            return default
        value = self._required(key)
        if not isinstance(value, str):
            raise _wrong_type(key, "a string", value)
        return value

    def strings(self, key: str) -> list[str]:
        value = self._required(key)
        if not isinstance(value, list):
            raise _wrong_type(key, "an array of strings", value)
        return value

    def numbers(self, key: str) -> npt.NDArray[Any]:
        value = self._required(key)
        if not isinstance(value, np.ndarray) or value.dtype == np.bool_:
            raise _wrong_type(key, "an array of numbers", value)
        return value


def describe(value: MetadataValue) -> str:
    """The kind of a value in words; never the value itself, which may be a vocabulary."""
    if isinstance(value, bool):
        return "a bool"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a float"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return f"an array of {len(value):,} strings"
    return f"an array of {value.size:,} {value.dtype}"


def _wrong_type(key: str, wanted: str, value: MetadataValue) -> GGUFFormatError:
    return GGUFFormatError(f"'{key}' is {describe(value)}, it should be {wanted}")
