"""MXFP4: 32 weights in 17 bytes: a power of two e, then 16 bytes with weight l in the low nibble of byte l, 16 + l in
the high: four-bit floats, kept twice as large as whole numbers.

    weight = 2**(e - 128) * VALUES[q],   VALUES = 0 1 2 3 4 6 8 12 and their negatives

Source: OCP Microscaling Formats 1.0; ggml-common.h `block_mxfp4`, `kvalues_mxfp4`, ggml-quants.c
`dequantize_row_mxfp4`.
"""

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES,
    PANEL_D,
    PARTS,
    add_signed_products,
    multiply_raised,
    offset_of,
    panel_of_nibbles,
)
from woolly_worker.kernels.formats.legacy_on_matrix_unit import LegacyUnit
from woolly_worker.kernels.formats.nibbles import nibbles, nibbles_of_two, store_numbers
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import parts_in_sixteens
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    as_f32x16,
    byte_table,
    dot_u8i8,
    first_lane,
    gather_first_i32,
    gather_i32,
    hsum,
    load_i8x32,
    load_i8x64,
    load_u8,
    maximum,
    shift_left,
    splat_f32x16,
    splat_i32x16,
    store,
    sub,
    zero_i32x8,
    zero_i32x16,
)

BLOCK_BYTES = 17
OFFSET = offset_of(16)
LARGEST = OFFSET + 12


def _values() -> list[int]:
    from gguf.quants import MXFP4  # slow to import, and needed by the compiler only

    return list(MXFP4.kvalues)


raised_value = byte_table(lambda: [value + OFFSET for value in _values()])
signed_value = byte_table(lambda: [value & 0xFF for value in _values()])


@inline
def _powers(e):
    """2**(e - 128) for bytes in i32 lanes: an exponent, or for e of 0 and 1 a subnormal number."""
    one = splat_i32x16(np.int32(1))
    normal, subnormal = shift_left(sub(e, one), 23), shift_left(add(e, one), 21)
    return as_f32x16(maximum(normal, subnormal))


@inline
def _store_d(block, row_bytes, panel):
    store(panel + PANEL_D, _powers(and_bits(gather_i32(block, row_bytes), 0xFF)))


unpack_block = panel_of_nibbles(BLOCK_BYTES, 1, raised_value, _store_d)
multiply_block = multiply_raised(OFFSET, LARGEST)


@inline
def _pair(block, x):
    return dot_u8i8(zero_i32x16(), raised_value(nibbles_of_two(block, 1, BLOCK_BYTES)), load_i8x64(x), LARGEST)


@inline
def _single(block, x):
    return hsum(dot_u8i8(zero_i32x8(), raised_value(nibbles(block, 1)), load_i8x32(x), LARGEST))


@inline
def _scales(block, n):
    return _powers(and_bits(gather_first_i32(block, BLOCK_BYTES, n), 0xFF))


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens(row, x, n_cols, BLOCK_BYTES, OFFSET, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: d * value."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(first_lane(_powers(splat_i32x16(load_u8(block)))))
        store_numbers(raised_value(nibbles(block, 1)), OFFSET, d, out + 128 * i)


FORMAT = quantised(
    "MXFP4",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    legacy_unit=LegacyUnit(
        panel_of_nibbles(BLOCK_BYTES, 1, signed_value, _store_d), add_signed_products, is_signed=True
    ),
    row_parts=row_parts,
    dequantize=dequantize,
)
