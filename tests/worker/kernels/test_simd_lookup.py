"""Constant lanes and tables of sixteen bytes, against NumPy."""

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import verb_kernels as kernels
from kernel_memory import Region

from woolly_worker.kernels.cpu import Cpu
from woolly_worker.kernels.simd import lookup


@pytest.fixture(params=["this CPU's", "any CPU's"])
def looked_up(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Tables as this CPU reads them, and as one without byte shuffles has to."""
    if request.param == "this CPU's":
        yield kernels.looked_up
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "CPU", Cpu("generic", "", ""))
        plain = numba.njit(kernels.looked_up.py_func)
        plain(Region(np.zeros(64), np.uint8).address, Region(np.zeros(176), np.uint8).address)  # compiled here
        yield plain


def test_every_byte_is_looked_up(looked_up: Any) -> None:
    rng = np.random.default_rng(13)
    for x in (np.arange(64) % 16, np.full(64, 15), *rng.integers(0, 16, (10, 64))):
        out = Region(np.zeros(176), np.uint8, 1)
        looked_up(Region(x, np.uint8, 3).address, out.address)
        expected = np.array(kernels.TABLE)[x]
        assert np.array_equal(out.values, np.concatenate([expected, expected[:32], expected[:16], expected]))


def test_lanes_and_shifts_of_their_own() -> None:
    number = np.int32(-0x12345679)
    out = Region(np.zeros(80), np.uint8)
    kernels.constant_lanes(number, out.address)
    assert out.values[:16].tolist() == [*range(13), 33, 34, 35]
    shifted = np.uint32(int(number) % 2**32) >> np.array([0, 1, 2, 3, 31, 20, 4, 10], np.uint32)
    assert np.array_equal(out.values[16:48].view(np.uint32), shifted)
    assert (out.values[48:].view(np.int32) == number).all()
