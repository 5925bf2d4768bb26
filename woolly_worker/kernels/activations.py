"""How activations lie in memory while matrices multiply them. Three forms; a matrix's type decides which it reads.

    F32   float32, rows padded with zeros to a multiple of 16 floats
    Q8K   for K-quants: one record for each 256 values
              0..256   i8     values, x ~ d * q
            256..260   f32    d
            260..264   i32    sum of the values
            272..288   i16 x 8   sums of 32 values each
            288..320   i16 x 16  sums of 16 values each
    Q8    for the older formats: one record for each 32 values
              0.. 32   i8     values
             32.. 36   f32    d
             36.. 40   i32    sum of the values

The scale is kept as f32 where ggml rounds it to f16 for Q8_0, so results are a little closer to exact than ggml's.
"""

from enum import IntFlag

Q8K_VALUES = 256
Q8K_SCALE = 256
Q8K_SUM = 260
Q8K_SUMS32 = 272
Q8K_SUMS16 = 288
Q8K_BYTES = 320

Q8_VALUES = 32
Q8_SCALE = 32
Q8_SUM = 36
Q8_BYTES = 40

LANES = 16


class Activation(IntFlag):
    """The forms that the readers of a row ask for; a bit each, because one row may have several readers."""

    F32 = 1
    Q8K = 2
    Q8 = 4


def padded(n: int) -> int:
    """The next multiple of 16: rows of f32 activations have that many floats."""
    return -(-n // LANES) * LANES


def row_bytes(form: Activation, n: int) -> int:
    """Bytes of one row of n values in a form."""
    if form == Activation.F32:
        return 4 * padded(n)
    if form == Activation.Q8K:
        return -(-n // Q8K_VALUES) * Q8K_BYTES
    return -(-n // Q8_VALUES) * Q8_BYTES
