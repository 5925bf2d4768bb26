"""Entries of grids, and scratch on the stack."""

import numba
import numpy as np
import pytest
import verb_kernels as kernels
from kernel_memory import Region

from woolly_worker.kernels.simd import tables

GRIDS = (kernels.FOURS, kernels.EIGHTS, kernels.MANY)


@pytest.mark.parametrize("how", ["as on this CPU", "from memory"])
def test_entries_are_those_of_the_indices(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_ups = kernels.look_ups
    if how == "from memory":
        monkeypatch.setattr(tables, "_PERMUTES", False)
        look_ups = numba.njit(look_ups.py_func)
    rng = np.random.default_rng(1)
    every_bit = np.concatenate([1 << np.arange(11), (1 << np.arange(11)) - 1, [0, 2047], rng.integers(0, 2048, 8)])
    for indices in (every_bit, *rng.integers(0, 2048, (20, 32))):
        asked = [indices % len(grid) for grid in GRIDS]
        out = Region(np.zeros(128 + 256 + 256), np.uint8, 1)
        look_ups(Region(asked, np.uint16, 1).address, out.address)
        assert np.array_equal(out.values, np.concatenate([g[i].ravel() for g, i in zip(GRIDS, asked, strict=True)]))


def test_scratch_on_the_stack_does_not_grow_in_a_loop() -> None:
    """A GiB's worth of scratch would end the process if every turn took its own."""
    n = 1 << 24
    x = Region(np.arange(64 * 100), np.uint8)
    out = Region(np.zeros(64 * 100), np.uint8)
    assert kernels.by_way_of_the_stack(x.address, 100, out.address) == 0
    assert np.array_equal(out.values, x.values)
    assert kernels.turns_on_the_stack(x.address, n) == int(x.values[0])
