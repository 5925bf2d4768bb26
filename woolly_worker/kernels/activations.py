"""How activations lie in memory while matrices multiply them. Three forms; a matrix's type decides which it reads.

    F32   float32, rows padded with zeros to a multiple of 16 floats
    Q8K   for K-quants: one record for each 256 values
              0..256   i8     values, x ~ d * q
            256..260   f32    d
            260..264   i32    sum of the values
            272..288   i16 x 8   sums of 32 values each
            288..320   i16 x 16  sums of 16 values each
    Q8    for the formats of 32 weights: one record for each 512 values, sixteen runs of 32; the last one of a row is
          filled up with zeros
              0..512   i8        values, x ~ d * q
            512..576   f32 x 16  d of every run
            576..640   i32 x 16  128 times the sum of every run: what weights that are kept 128 too large add

The scale is kept as f32 where ggml rounds it to f16 for Q8_0, so results are a little closer to exact than ggml's.
"""

from enum import IntFlag

Q8K_VALUES = 256
Q8K_SCALE = 256
Q8K_SUM = 260
Q8K_SUMS32 = 272
Q8K_SUMS16 = 288
Q8K_BYTES = 320

Q8_VALUES = 512
Q8_RUN = 32  # values that share a scale
Q8_SCALES = 512
Q8_SUMS = 576
Q8_BYTES = 640

LANES = 16
CACHE_LINE_BYTES = 64


class Activation(IntFlag):
    """The forms that the readers of a row ask for; a bit each, because one row may have several readers."""

    F32 = 1
    Q8K = 2
    Q8 = 4


def padded(n: int) -> int:
    """The next multiple of 16: rows of f32 activations have that many floats."""
    return -(-n // LANES) * LANES


def row_bytes(form: Activation, n: int) -> int:
    """Bytes from one row of n values in a form to the next."""
    if form == Activation.F32:
        return 4 * padded(n)
    n_bytes = -(-n // Q8K_VALUES) * Q8K_BYTES if form == Activation.Q8K else -(-n // Q8_VALUES) * Q8_BYTES
    # An odd number of cache lines: else sixteen tokens' records of a block would share few sets of L1.
    return (n_bytes // CACHE_LINE_BYTES | 1) * CACHE_LINE_BYTES
