"""Every scratch buffer of a forward pass, taken once.

A `Rows` holds one row for each token of a step: as f32, and in those quantised forms that the matrices reading it ask
for. Its memory belongs to it; kernels get addresses.
"""

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64  # a cache line, and the widest vector
PAGE = 4096  # bytes: addresses so far apart compete for the same few places of an L1 cache


def aligned_zeros(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes at a multiple of 64, with a cache line of slack behind them for whole-vector reads."""
    raw = np.zeros(n_bytes + 2 * ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


class Buffer:
    """`n_rows` rows of `row_bytes` bytes, one after the other.

    `stride` is row_bytes rounded up to a cache line, and one more where it would be whole pages: kernels read the same
    column of several rows together.
    """

    __slots__ = ("address", "memory", "n_bytes", "stride")

    def __init__(self, n_rows: int, row_bytes: int) -> None:
        self.stride = -(-row_bytes // ALIGNMENT) * ALIGNMENT
        if self.stride % PAGE == 0:
            self.stride += ALIGNMENT
        self.n_bytes = n_rows * self.stride
        self.memory = aligned_zeros(self.n_bytes)
        self.address: int = self.memory.ctypes.data


def scratch_of_members(n_members: int, n_bytes: int) -> Buffer:
    """A row of scratch for each member of a team, a page from the next one's: what a core's prefetchers fetch beyond
    the end of its own is taken from the member who writes there. With a line between them, two members took a third
    longer to multiply by i-quants."""
    return Buffer(n_members, n_bytes + PAGE)


class Rows:
    """One activation of a step.

    values  (n_rows, n) f32, rows padded with zeros to a cache line (16 floats)
    forms   the same rows in other forms, by the form's number in `kernels/activations.py`
    """

    __slots__ = ("forms", "n", "n_rows", "values")

    def __init__(self, n_rows: int, n: int, form_bytes: dict[int, int] | None = None) -> None:
        self.n_rows, self.n = n_rows, n
        self.values = Buffer(n_rows, 4 * n)
        self.forms = {form: Buffer(n_rows, row_bytes) for form, row_bytes in (form_bytes or {}).items()}

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return self.values, *self.forms.values()

    @property
    def n_bytes(self) -> int:
        return sum(buffer.n_bytes for buffer in self.buffers)

    def array(self) -> npt.NDArray[np.float32]:
        """The f32 rows as a view, without their padding."""
        rows = self.values.memory.view(np.float32).reshape(self.n_rows, self.values.stride // 4)
        return rows[:, : self.n]
