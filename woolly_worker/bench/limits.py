"""The machine's limits, measured: bytes per second that all threads read from memory together, and int8 multiply-adds
per second that they do in registers, by the matrix unit where there is one. With AVX2 alone these are products with
4-bit weights, the fastest there: other formats have a lower limit.

Shared machines change from minute to minute, so whoever compares with a limit measures it beside the work.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.probes import (
    MATRIX_PRODUCTS_PER_ROUND,
    PROBE_BYTES,
    PRODUCTS_PER_ROUND,
    READ_STEP_BYTES,
    multiply_bytes,
    multiply_matrices,
    read_all,
)

READ_BYTES = 1 << 28  # far beyond most caches
LAST_LEVEL_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
ROUNDS = 1 << 22  # of `multiply_bytes`: about 10 ms
MATRIX_ROUNDS = 1 << 19
ATTEMPTS = 5  # the best counts: a limit, not what somebody else left of it


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all threads together."""

    read_bytes_per_second: float
    products_per_second: float


class LimitProbe:
    """Measures the limits for `n_threads`. Holds the memory that is read; made once, asked often."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._memory = np.ones(_bytes_beyond_caches(), np.uint8)  # ones: untouched pages would be one page of zeros
        # Compiled, or taken from the disk cache, before any clock starts.
        read_all(self._memory.ctypes.data, READ_STEP_BYTES)
        self._multiply, self._rounds, self._products = multiply_bytes, ROUNDS, PRODUCTS_PER_ROUND
        if CPU.has_matrix_unit:
            self._multiply, self._rounds, self._products = multiply_matrices, MATRIX_ROUNDS, MATRIX_PRODUCTS_PER_ROUND
        self._multiply(self._memory.ctypes.data, 1)

    def measure(self) -> Limits:
        piece = len(self._memory) // self.n_threads // READ_STEP_BYTES * READ_STEP_BYTES
        first = int(self._memory.ctypes.data)
        reading = self._best(lambda member: read_all(first + member * piece, piece))
        multiplying = self._best(lambda member: self._multiply(first + member * PROBE_BYTES, self._rounds))
        return Limits(
            read_bytes_per_second=piece * self.n_threads / reading,
            products_per_second=self._rounds * self._products * self.n_threads / multiplying,
        )

    def _best(self, work: Callable[[int], object]) -> float:
        """Seconds of the fastest attempt; an attempt ends with its last thread."""
        return min(self._once(work) for _ in range(ATTEMPTS))

    def _once(self, work: Callable[[int], object]) -> float:
        threads = [threading.Thread(target=work, args=(member,)) for member in range(self.n_threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start


def _bytes_beyond_caches() -> int:
    """Twice the last cache, where that is large: some servers have half a gigabyte, shared by all their guests."""
    try:
        kilobytes = int(LAST_LEVEL_CACHE.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        return READ_BYTES
    return max(READ_BYTES, 2 * 1024 * kilobytes)
