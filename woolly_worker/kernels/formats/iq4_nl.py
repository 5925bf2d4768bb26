"""IQ4_NL: 32 weights in 18 bytes: d (f16), then 16 bytes of indices into a table of sixteen values, as in Q4_0.

    weight = d * VALUES[q]

Source: ggml-common.h `block_iq4_nl`, `kvalues_iq4nl`, ggml-quants.c `dequantize_row_iq4_nl`.
"""

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.iq4_xs import LARGEST, raised_value, signed_value
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES,
    PARTS,
    add_signed_products,
    multiply_raised,
    multiply_signed,
    panel_of_nibbles,
    store_d,
)
from woolly_worker.kernels.formats.legacy_on_matrix_unit import LegacyUnit
from woolly_worker.kernels.formats.nibbles import nibbles, nibbles_of_two, store_numbers
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import parts_in_sixteens
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    dot_i8i8,
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
from woolly_worker.kernels.simd.sizes import IN_SHORTS

BLOCK_BYTES = 18


_signed_panel = panel_of_nibbles(BLOCK_BYTES, 2, signed_value, store_d)

# One token's products are those of values + OFFSET.
if IN_SHORTS:
    unpack_block, multiply_block, OFFSET = _signed_panel, multiply_signed, 0

    @inline
    def _dot_values(acc, q, x):
        return dot_i8i8(acc, signed_value(q), x)

else:
    unpack_block = panel_of_nibbles(BLOCK_BYTES, 2, raised_value, store_d)
    multiply_block, OFFSET = multiply_raised(128, LARGEST), 128

    @inline
    def _dot_values(acc, q, x):
        return dot_u8i8(acc, raised_value(q), x, LARGEST)


@inline
def _pair(block, x):
    return _dot_values(zero_i32x16(), nibbles_of_two(block, 2, BLOCK_BYTES), load_i8x64(x))


@inline
def _single(block, x):
    return hsum(_dot_values(zero_i32x8(), nibbles(block, 2), load_i8x32(x)))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens(row, x, n_cols, BLOCK_BYTES, OFFSET, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: d * value."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        store_numbers(raised_value(nibbles(block, 2)), 128, d, out + 128 * i)


FORMAT = quantised(
    "IQ4_NL",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    legacy_unit=LegacyUnit(_signed_panel, add_signed_products, is_signed=True),
    row_parts=row_parts,
    dequantize=dequantize,
)
