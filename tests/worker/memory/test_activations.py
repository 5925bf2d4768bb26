"""Scratch rows: where they lie, and that views and addresses mean the same bytes."""

from itertools import pairwise

import numpy as np
import pytest

from woolly_worker.memory.activations import ALIGNMENT, Buffer, Rows, aligned_zeros


@pytest.mark.parametrize("n_bytes", [0, 1, 63, 64, 65, 10_000])
def test_memory_is_aligned_zeroed_and_has_slack_behind(n_bytes: int) -> None:
    for _ in range(20):
        memory = aligned_zeros(n_bytes)
        assert memory.nbytes == n_bytes
        assert memory.ctypes.data % ALIGNMENT == 0 or n_bytes == 0
        assert not memory.any()
        whole = memory.base
        assert whole is not None
        behind = whole.ctypes.data + whole.nbytes - (memory.ctypes.data + n_bytes)
        assert behind >= ALIGNMENT


@pytest.mark.parametrize(
    ("row_bytes", "stride"), [(1, 64), (64, 64), (65, 128), (4 * 172, 704), (4096, 4160), (8130, 8256)]
)
def test_rows_of_a_buffer_start_on_cache_lines(row_bytes: int, stride: int) -> None:
    """Whole pages get a line more: the same column of several rows would compete for a few places in L1."""
    buffer = Buffer(3, row_bytes)
    assert (buffer.stride, buffer.n_bytes) == (stride, 3 * stride)
    assert buffer.address % ALIGNMENT == 0
    assert buffer.address == buffer.memory.ctypes.data


@pytest.mark.parametrize("n", [1, 16, 17, 172])
def test_rows_are_a_view_without_padding(n: int) -> None:
    rows = Rows(4, n, {2: 320, 4: 80})
    view = rows.array()
    assert view.shape == (4, n)
    assert view.dtype == np.float32
    view[3, n - 1] = 7
    stride = rows.values.stride // 4
    assert rows.values.memory.view(np.float32)[3 * stride + n - 1] == 7
    assert view.ctypes.data == rows.values.address
    assert np.shares_memory(view, rows.values.memory)
    assert {form: buffer.stride for form, buffer in rows.forms.items()} == {2: 320, 4: 128}
    assert rows.n_bytes == 4 * (rows.values.stride + 320 + 128)


def test_forms_do_not_share_memory() -> None:
    rows = Rows(2, 256, {2: 320, 4: 320})
    buffers = [rows.values, *rows.forms.values()]
    spans = sorted((buffer.address, buffer.address + buffer.n_bytes) for buffer in buffers)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
