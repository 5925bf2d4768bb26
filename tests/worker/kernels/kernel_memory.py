"""What kernel tests share: arrays at awkward addresses, and a way to run one operation as a step program.

Memory that is handed to a kernel is surrounded by a known pattern, so that a write outside is noticed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.jit import LazyOp
from woolly_worker.kernels.step import STEP_FIELDS
from woolly_worker.kernels.team import OP_ARGS, OP_BARRIER, OP_FUNCTION, OP_WORDS, Team

MARGIN = 256  # bytes of pattern before and behind
PATTERN = 0xA5


KEPT: list["Region"] = []  # until the end of the test, see conftest.py: kernels are handed addresses, not references


class Region:
    """An array's copy at an address that is `offset` bytes behind a multiple of 64, between two runs of pattern."""

    def __init__(self, content: npt.ArrayLike, dtype: npt.DTypeLike, offset: int = 0) -> None:
        array = np.ascontiguousarray(content, dtype)
        self._raw = np.full(array.nbytes + 2 * MARGIN + 64, PATTERN, np.uint8)
        self._start = MARGIN - self._raw.ctypes.data % 64 + offset
        self._n_bytes = array.nbytes
        self._shape, self._dtype = array.shape, array.dtype
        self._inside[:] = np.frombuffer(array.tobytes(), np.uint8)
        self.address = int(self._raw.ctypes.data) + self._start
        KEPT.append(self)

    @property
    def _inside(self) -> npt.NDArray[np.uint8]:
        return self._raw[self._start : self._start + self._n_bytes]

    @property
    def writable(self) -> npt.NDArray[Any]:
        """The memory itself, flat."""
        return self._inside.view(self._dtype)

    @property
    def values(self) -> npt.NDArray[Any]:
        """What it holds now, as a copy. Fails if anything around it was overwritten."""
        assert (self._raw[: self._start] == PATTERN).all(), "a kernel wrote before its output"
        assert (self._raw[self._start + self._n_bytes :] == PATTERN).all(), "a kernel wrote behind its output"
        return np.frombuffer(self._inside.tobytes(), self._dtype).reshape(self._shape)


def record(n_fields: int, fields: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """An argument record."""
    array = np.zeros(n_fields, np.int64)
    for index, value in fields.items():
        array[index] = value
    return array


def program(*ops: tuple[LazyOp, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """A step program with a barrier behind every operation. The records must be kept alive."""
    array = np.zeros((len(ops), OP_WORDS), np.int64)
    for row, (op, args) in zip(array, ops, strict=True):
        row[OP_FUNCTION], row[OP_ARGS], row[OP_BARRIER] = op.address, args.ctypes.data, 1
    return array


def run_op(op: LazyOp, args: npt.NDArray[np.int64], step: Mapping[int, int], n_members: int = 1) -> None:
    """One step of a program that has only this operation."""
    team = Team(program((op, args)), n_members)
    try:
        assert len(team.step) == STEP_FIELDS
        for index, value in step.items():
            team.step[index] = value
        team.run()
    finally:
        team.close()


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Equal in every bit: NaN equals the same NaN, and 0 differs from -0."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    return a.tobytes() == b.tobytes()
