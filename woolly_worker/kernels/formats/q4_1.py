"""Q4_1: 32 weights in 20 bytes: d and m (f16), then 16 bytes with weight l in the low nibble of byte l, 16 + l in the
high.

    weight = d * q + m

Source: ggml-common.h `block_q4_1`, ggml-quants.c `dequantize_row_q4_1`.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES_WITH_MINS,
    PARTS,
    add_products_with_mins,
    as_it_is,
    multiply_with_mins,
    panel_of_nibbles,
    store_d_and_m,
)
from woolly_worker.kernels.formats.legacy_on_matrix_unit import LegacyUnit
from woolly_worker.kernels.formats.nibbles import nibbles, nibbles_of_two, store_numbers_and_min
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import parts_in_sixteens_with_mins
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    dot_u8i8,
    gather_first_halves_f32,
    hsum,
    load_f16,
    load_i8x32,
    load_i8x64,
    splat_f32x16,
    zero_i32x8,
    zero_i32x16,
)

BLOCK_BYTES = 20


unpack_block = panel_of_nibbles(BLOCK_BYTES, 4, as_it_is, store_d_and_m)
multiply_block = multiply_with_mins(15)


@inline
def _pair(block, x):
    return dot_u8i8(zero_i32x16(), nibbles_of_two(block, 4, BLOCK_BYTES), load_i8x64(x), 15)


@inline
def _single(block, x):
    return hsum(dot_u8i8(zero_i32x8(), nibbles(block, 4), load_i8x32(x), 15))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens_with_mins(row, x, n_cols, BLOCK_BYTES, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: q * d + m."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        m = splat_f32x16(load_f16(block + 2))
        store_numbers_and_min(nibbles(block, 4), d, m, out + 128 * i)


FORMAT = quantised(
    "Q4_1",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    panel_block_bytes=PANEL_BLOCK_BYTES_WITH_MINS,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    legacy_unit=LegacyUnit(unpack_block, add_products_with_mins, is_signed=False),
    row_parts=row_parts,
    dequantize=dequantize,
)
