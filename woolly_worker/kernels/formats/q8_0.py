"""Q8_0: 32 weights in 34 bytes: d (f16), then 32 x i8. weight = d * q.

`dot_u8i8` wants unsigned weights, so the kernels flip the sign bit (q + 128) and take 128 * sum(x) away again, except
where products of bytes are added up in 16 bits.

Source: ggml-common.h `block_q8_0`, ggml-quants.c `dequantize_row_q8_0`.
"""

from typing import Any

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.legacy import (
    BLOCK,
    PANEL_BLOCK_BYTES,
    PARTS,
    add_signed_products,
    as_it_is,
    multiply_raised,
    multiply_signed,
    store_d,
)
from woolly_worker.kernels.formats.legacy_on_matrix_unit import LegacyUnit
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.sixteens import parts_in_sixteens
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    concat,
    dot_i8i8,
    dot_u8i8,
    gather_columns,
    gather_first_halves_f32,
    hsum,
    load_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    mul,
    prefetch,
    sign_extend,
    splat_f32x16,
    store,
    to_f32,
    vector_of,
    xor_bits,
    zero_i32x8,
    zero_i32x16,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS

BLOCK_BYTES = 34


@inline
def _raised(q):
    return xor_bits(q, 0x80808080)


def _panel_of(value: Any) -> Any:
    """The unpack_block whose panel holds value(four bytes of sixteen rows)."""

    @inline
    def half(block, row_bytes, ahead, place):
        q = gather_columns(block, row_bytes)
        prefetch(ahead)
        store(place, value(vector_of(q, 0)))
        prefetch(ahead + 64)
        store(place + 64, value(vector_of(q, 1)))
        prefetch(ahead + 128)
        store(place + 128, value(vector_of(q, 2)))
        prefetch(ahead + 192)
        store(place + 192, value(vector_of(q, 3)))

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        """One block of sixteen rows into a panel; 16 * 34 bytes of the next sixteen rows are asked for, see q4_k."""
        half(block + 2, row_bytes, ahead, panel)
        half(block + 18, row_bytes, ahead + 256, panel + 256)
        store_d(block, row_bytes, panel)
        prefetch(ahead + 512)

    return unpack_block


_signed_panel = _panel_of(as_it_is)

if IN_SHORTS:
    unpack_block, multiply_block = _signed_panel, multiply_signed
    OFFSET = 0

    @inline
    def _pair(block, x):
        return dot_i8i8(zero_i32x16(), concat(load_i8x32(block + 2), load_i8x32(block + 36)), load_i8x64(x))

    @inline
    def _single(block, x):
        return hsum(dot_i8i8(zero_i32x8(), load_i8x32(block + 2), load_i8x32(x)))

else:
    unpack_block, multiply_block = _panel_of(_raised), multiply_raised(128, 255)
    OFFSET = 128

    @inline
    def _pair(block, x):
        q = xor_bits(concat(load_i8x32(block + 2), load_i8x32(block + 36)), 0x80)
        return dot_u8i8(zero_i32x16(), q, load_i8x64(x), 255)

    @inline
    def _single(block, x):
        return hsum(dot_u8i8(zero_i32x8(), xor_bits(load_i8x32(block + 2), 0x80), load_i8x32(x), 255))


@inline
def _scales(block, n):
    return gather_first_halves_f32(block, BLOCK_BYTES, n)


@inline
def row_parts(row, x, n_cols):
    """One row times one token: `multiply_block` for a single lane, reading the bytes in place; in parts."""
    return parts_in_sixteens(row, x, n_cols, BLOCK_BYTES, OFFSET, _pair, _single, _scales)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: q * d."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = splat_f32x16(load_f16(block))
        for half in range(2):
            q = sign_extend(load_i8x16(block + 2 + 16 * half))
            store(out + 4 * (BLOCK * i + 16 * half), mul(to_f32(q), d))


FORMAT = quantised(
    "Q8_0",
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
