"""The verbs of the matrix unit, against NumPy, where the CPU has one."""

from typing import Any

import matrix_unit_kernels as kernels
import numpy as np
import pytest
from kernel_memory import Region

from woolly_worker.kernels.cpu import CPU

pytestmark = pytest.mark.skipif(not CPU.has_matrix_unit, reason=f"the level {CPU.level} has no matrix unit")


def random_bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def extreme_bytes(*shape: int) -> np.ndarray:
    """Only the largest and the smallest numbers, signed and unsigned."""
    return np.random.default_rng(8).choice(np.array([0, 127, 128, 255], np.uint8), shape)


@pytest.mark.parametrize("make", [random_bytes, extreme_bytes])
@pytest.mark.parametrize(("stride", "n_rows"), [(64, 16), (320, 1), (320, 7)])
def test_products_of_rows_and_sixteen_columns(make: Any, stride: int, n_rows: int) -> None:
    a, b = make(16, stride), make(16, 64)
    out = Region(np.full((4, 16, 16), -1), np.int32)
    kernels.products_twice(Region(a, np.uint8).address, stride, Region(b, np.uint8).address, n_rows, out.address)
    # b holds four neighbouring columns of `a` for each of sixteen results.
    columns = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16)
    used = a[:, :64]

    def twice(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return 2 * (rows.astype(np.int64) @ columns.astype(np.int64))

    signed_rows, signed_columns = used.view(np.int8), columns.view(np.int8)
    np.testing.assert_array_equal(out.values[0], twice(used, signed_columns))
    np.testing.assert_array_equal(out.values[1], twice(signed_rows, columns))
    np.testing.assert_array_equal(out.values[2], twice(signed_rows, signed_columns))
    np.testing.assert_array_equal(out.values[3, :n_rows], twice(signed_rows, signed_columns)[:n_rows])
    np.testing.assert_array_equal(out.values[3, n_rows:], -1)  # nothing behind the last row is written


def test_products_of_pairs() -> None:
    u, s = random_bytes(64) // 2, random_bytes(64).view(np.int8) // 2
    out = Region(np.zeros(32), np.int16)
    kernels.products_of_pairs(Region(u, np.uint8).address, Region(s, np.int8).address, out.address)
    products = u.astype(np.int64) * s
    np.testing.assert_array_equal(out.values, products[::2] + products[1::2])


def test_bytes_side_by_side() -> None:
    x, y = random_bytes(64), random_bytes(64)[::-1].copy()
    out = Region(np.zeros((2, 64)), np.uint8)
    kernels.bytes_interleaved(Region(x, np.uint8).address, Region(y, np.uint8).address, out.address)
    np.testing.assert_array_equal(out.values[0], np.stack([x[::2], y[::2]], axis=1).ravel())
    np.testing.assert_array_equal(out.values[1], np.stack([x[1::2], y[1::2]], axis=1).ravel())


def test_bytes_as_halves() -> None:
    x = random_bytes(16, 4)
    out = Region(np.zeros((2, 32)), np.uint16)
    kernels.bytes_in_halves(Region(x, np.uint8).address, out.address)
    np.testing.assert_array_equal(out.values[0], x[:, :2].ravel())
    np.testing.assert_array_equal(out.values[1], np.repeat(x[:, 3], 2))
