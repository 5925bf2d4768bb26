"""Blocks of any tensor type with what they mean, drawn anew at every start: the material of `selfcheck.py`.

The meaning is the `gguf` package's, in NumPy; nothing of it is shared with the kernels.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import numpy.typing as npt

from woolly_worker.gguf.types import GGMLType
from woolly_worker.model.weights import Matrix

SAMPLE_ROWS = 18  # a panel of sixteen, and two rows behind it
_QUANTISED_COLS = 512  # whole blocks of every type
_FLOAT_COLS = 40  # two vectors, and half of one
_DRAWN_AT_ONCE = 1 << 16  # weights

# A block whose largest weight is in here is kept. Random bytes are mostly scales that drown all others, or overflow.
_LARGEST = (0.25, 4.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """`matrix` lies in `rows`, which is kept here; `weights` is (n_rows, n_cols) f32, what the rows stand for."""

    matrix: Matrix
    rows: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32]


def sample(kind: GGMLType, rng: np.random.Generator) -> Sample:
    """A small matrix of this type from random bytes, its scales neither tiny nor huge."""
    quants = _gguf_quants()
    n_cols = _FLOAT_COLS if kind.block_size == 1 else _QUANTISED_COLS
    n_blocks = SAMPLE_ROWS * n_cols // kind.block_size
    kept: list[npt.NDArray[np.uint8]] = []
    while sum(map(len, kept)) < n_blocks:
        blocks = rng.integers(0, 256, (_DRAWN_AT_ONCE // kind.block_size, kind.block_bytes), dtype=np.uint8)
        largest = np.abs(_meaning(quants, kind, blocks)).max(axis=1)
        kept.append(blocks[(largest >= _LARGEST[0]) & (largest < _LARGEST[1])])
    rows = np.ascontiguousarray(np.concatenate(kept)[:n_blocks].reshape(SAMPLE_ROWS, -1))
    weights = _meaning(quants, kind, rows.reshape(n_blocks, -1)).reshape(SAMPLE_ROWS, n_cols)
    address, row_bytes = int(rows.ctypes.data), kind.row_bytes(n_cols)
    matrix = Matrix(f"sample.{kind.name}", kind, SAMPLE_ROWS, n_cols, address, row_bytes, rows.nbytes)
    return Sample(matrix, rows, weights)


def _meaning(quants: Any, kind: GGMLType, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):
        numbers = quants.dequantize(blocks, quants.GGMLQuantizationType[kind.name])
    return np.asarray(numbers, np.float32).reshape(len(blocks), -1)


@cache
def _gguf_quants() -> Any:
    """`gguf.quants`, without what else the package imports when it is asked for: 0.13 s for converters, none of which
    is needed here. So its folder becomes a package of another name, whose `__init__` is empty."""
    found = importlib.util.find_spec("gguf")
    assert found is not None, "the worker depends on gguf"
    name = f"{__package__}._gguf"
    package = importlib.util.module_from_spec(ModuleSpec(name, None, is_package=True))
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules[name] = package
    return importlib.import_module(f"{name}.quants")
