"""Asking for memory before one row times one token reads it.

Rows are one stream, which hardware follows by itself: on Zen 4, asking 2 KB ahead halved the speed (note 0002). Intel's
CPUs read Q4_K 14 to 27 % faster and Q2_K 50 to 70 % when lines are asked for some time before, one by one between other
instructions; asked for in bunches they gain nothing (note 0009). Zen 3 reads Q4_K 20 % faster (note 0010).

LLVM sees that what is asked for is not what is read now, and gathers what it can move: it put Q6_K's sixteen asks of
four blocks in a row, and with AVX2 the twelve of Q4_K and Q5_K. So each is held between the loads around it.
"""

from typing import Any

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import prefetch, prefetch_here

AHEAD_BYTES = 3072


def _asking_by(verb: Any) -> Any:
    """The part that asks, or one that does nothing."""

    @inline
    def ask(address):
        """For the cache line that is read some time after the one at `address`."""
        verb(address + AHEAD_BYTES)

    @inline
    def ask_nothing(address):
        """Hardware follows by itself."""

    return ask if CPU.asks_ahead else ask_nothing


ask_ahead = _asking_by(prefetch_here)
ask_ahead_loosely = _asking_by(prefetch)  # wherever LLVM puts it: for where that is faster
