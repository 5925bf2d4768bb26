"""Loops that measure the machine's limits: they do as much as they say."""

import numpy as np
from kernel_memory import Region

from woolly_worker.kernels.probes import PROBE_BYTES, PRODUCTS_PER_ROUND, READ_STEP_BYTES, multiply_bytes, read_all


def test_products_are_as_many_as_a_round_has() -> None:
    ones = Region(np.ones(PROBE_BYTES), np.uint8)
    for n_rounds in (1, 20):
        assert multiply_bytes(ones.address, n_rounds) == n_rounds * PRODUCTS_PER_ROUND


def test_all_bytes_are_read() -> None:
    numbers = np.arange(3 * READ_STEP_BYTES // 4, dtype=np.int32)
    assert read_all(Region(numbers, np.int32).address, numbers.nbytes) == numbers.sum()
