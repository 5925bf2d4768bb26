"""Asking for memory before one row times one token reads it.

Rows are one stream, which hardware follows by itself: on Zen 4, asking 2 KB ahead halved the speed (note 0002). CPUs
with a matrix unit read Q4_K 14 % faster and Q2_K 70 % when lines are asked for some time before, one by one between
other instructions; asked for in bunches they gain nothing (note 0009). Of those with AVX2 alone, Zen 3 reads Q4_K 20 %
faster (note 0010).
"""

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import prefetch

AHEAD_BYTES = 3072
LINE_BY_LINE = CPU.level in ("avx2", "amx")

if LINE_BY_LINE:

    @inline
    def ask_ahead(address):
        """For the cache line that is read some time after the one at `address`."""
        prefetch(address + AHEAD_BYTES)

else:

    @inline
    def ask_ahead(address):
        """Nothing."""
