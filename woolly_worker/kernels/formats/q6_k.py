"""Q6_K: 256 weights in 210 bytes, sixteen sub-blocks of 16 with an 8-bit scale each.

    bytes   0..128  ql       low four bits
          128..192  qh       high two bits
          192..208  scales   16 x i8
          208..210  d        f16

    In each half h of 128 weights, for l < 32, with ql' = ql + 64 h and qh' = qh + 32 h:
        weight       l: ql'[l]      low nibble,   bits 0..2 of qh'[l]
        weight  32 + l: ql'[32 + l] low nibble,   bits 2..4
        weight  64 + l: ql'[l]      high nibble,  bits 4..6
        weight  96 + l: ql'[32 + l] high nibble,  bits 6..8

    weight = d * scale * (q - 32)

The kernels keep q unsigned and take 32 * sum(scale * sum of activations) away, in integers.

Source: ggml-common.h `block_q6_K`, ggml-quants.c `dequantize_row_q6_K`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_SUMS16, Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.scaled_panels import (
    PANEL_BLOCK_BYTES,
    PANEL_D,
    multiply_scaled,
    store_scales,
)
from woolly_worker.kernels.formats.signed_planes import scales_with, signed_unit, store_products
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    bor,
    dot_times,
    gather_columns,
    gather_i32,
    high_halves_f32,
    load_f16,
    load_four_f16,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16x16,
    mul,
    prefetch,
    shift_halves,
    shift_left,
    shift_right,
    sign_extend,
    splat_f32x16,
    splat_i32x16,
    spread_factors,
    store,
    sub,
    to_f32,
    to_factors,
    twice,
    vector_of,
    zero_extend,
    zero_i32x16,
)

BLOCK, BLOCK_BYTES = 256, 210
QH, SCALES, D = 128, 192, 208

QUARTER_AHEAD = 64 * 14  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines


@inline
def _four_runs(low, high, bits):
    """Four weights of sixteen rows from each of the four runs of 32 in a half."""
    return (
        bor(and_bits(low, 0x0F0F0F0F), shift_left(and_bits(bits, 0x03030303), 4)),
        bor(and_bits(high, 0x0F0F0F0F), shift_left(and_bits(bits, 0x0C0C0C0C), 2)),
        bor(and_bits(shift_right(low, 4), 0x0F0F0F0F), and_bits(bits, 0x30303030)),
        bor(and_bits(shift_right(high, 4), 0x0F0F0F0F), shift_right(and_bits(bits, 0xC0C0C0C0), 2)),
    )


@inline
def _unpack_column(low, high, bits, ahead, place):
    """The runs lie 512 bytes apart in the panel."""
    for line in range(3):
        prefetch(ahead + 64 * line)
    q = _four_runs(low, high, bits)
    store(place, q[0])
    store(place + 512, q[1])
    store(place + 1024, q[2])
    store(place + 1536, q[3])


@inline
def _unpack_half(ql, qh, row_bytes, ahead, values):
    for part in range(2):  # l in 16 * part .. 16 * part + 16
        low = gather_columns(ql + 16 * part, row_bytes)
        high = gather_columns(ql + 32 + 16 * part, row_bytes)
        bits = gather_columns(qh + 16 * part, row_bytes)
        place, there = values + 256 * part, ahead + 768 * part
        _unpack_column(vector_of(low, 0), vector_of(high, 0), vector_of(bits, 0), there, place)
        _unpack_column(vector_of(low, 1), vector_of(high, 1), vector_of(bits, 1), there + 192, place + 64)
        _unpack_column(vector_of(low, 2), vector_of(high, 2), vector_of(bits, 2), there + 384, place + 128)
        _unpack_column(vector_of(low, 3), vector_of(high, 3), vector_of(bits, 3), there + 576, place + 192)


@inline
def _unpack_all_scales(block, row_bytes, panel):
    scales = gather_columns(block + SCALES, row_bytes)
    store_scales(vector_of(scales, 0), panel, 0)
    store_scales(vector_of(scales, 1), panel, 1)
    store_scales(vector_of(scales, 2), panel, 2)
    store_scales(vector_of(scales, 3), panel, 3)
    store(panel + PANEL_D, high_halves_f32(gather_i32(block + D - 2, row_bytes)))


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel: values 0..63 as [64 groups][16 rows][4 columns] u8, then scales and d."""
    for line in range(48, 53):  # the last ones of the next sixteen rows, see q4_k; columns ask for the others
        prefetch(ahead + 64 * line)
    _unpack_half(block, block + QH, row_bytes, ahead, panel)
    _unpack_half(block + 64, block + QH + 32, row_bytes, ahead + 1536, panel + 2048)
    _unpack_all_scales(block, row_bytes, panel)


multiply_block = multiply_scaled(63, 32)  # 256 * 127 * 128 * (63 + 32) < 2**31


@inline
def _half_of_weights(ql, qh):
    """128 weights in their order, 64 in each of two vectors."""
    q, h = load_i8x64(ql), twice(load_i8x32(qh))
    low = bor(and_bits(q, 15), and_bits(shift_halves(h, -4, -2), 0x30))
    high = bor(and_bits(shift_halves(q, 4, 4), 15), and_bits(shift_halves(h, 0, 2), 0x30))
    return low, high


@inline
def _scaled_sums(block, x):
    """Sixteen lanes of partial sums, offsets included."""
    zero = zero_i32x16()
    scales = sign_extend(load_i8x16(block + SCALES))
    s = to_factors(scales)
    ask_ahead(block)
    low, high = _half_of_weights(block, block + QH)
    ask_ahead(block + 64)
    a = dot_times(zero, low, load_i8x64(x), spread_factors(s, "0000111122223333"), 63)
    a = dot_times(a, high, load_i8x64(x + 64), spread_factors(s, "4444555566667777"), 63)
    ask_ahead(block + 128)
    low, high = _half_of_weights(block + 64, block + QH + 32)
    ask_ahead(block + 192)
    b = dot_times(zero, low, load_i8x64(x + 128), spread_factors(s, "88889999aaaabbbb"), 63)
    b = dot_times(b, high, load_i8x64(x + 192), spread_factors(s, "ccccddddeeeeffff"), 63)
    offset = mul(scales, sign_extend(load_i16x16(x + Q8K_SUMS16)))
    return sub(add(a, b), shift_left(offset, 5))


@inline
def _unpack_factors(block, row_bytes, factors):
    """The scales, four of them a lane."""
    store(factors, high_halves_f32(gather_i32(block + D - 2, row_bytes)))
    scales = gather_columns(block + SCALES, row_bytes)
    return vector_of(scales, 0), vector_of(scales, 1), vector_of(scales, 2), vector_of(scales, 3)


def _quarter(h: int, part: int) -> Any:
    """For the matrix unit, sixteen weights from each of the four runs of 32 in half h."""
    scales_of = scales_with(offset=32)
    scales_0, scales_1 = scales_of(8 * h + part), scales_of(8 * h + 2 + part)
    scales_2, scales_3 = scales_of(8 * h + 4 + part), scales_of(8 * h + 6 + part)

    @inline
    def column(low, high, bits, ahead, scales, place):
        for line in range(3):
            prefetch(ahead + 64 * line)
        q = _four_runs(low, high, bits)
        store_products(q[0], scales[0], place)
        store_products(q[1], scales[1], place + 512)
        store_products(q[2], scales[2], place + 1024)
        store_products(q[3], scales[3], place + 1536)

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        low = gather_columns(block + 64 * h + 16 * part, row_bytes)
        high = gather_columns(block + 64 * h + 32 + 16 * part, row_bytes)
        bits = gather_columns(block + QH + 32 * h + 16 * part, row_bytes)
        of_runs = scales_0(scales), scales_1(scales), scales_2(scales), scales_3(scales)
        place = planes + 2048 * h + 256 * part
        ahead += QUARTER_AHEAD * (2 * h + part)
        prefetch(ahead + 64 * 12)
        prefetch(ahead + 64 * 13)
        column(vector_of(low, 0), vector_of(high, 0), vector_of(bits, 0), ahead, of_runs, place)
        column(vector_of(low, 1), vector_of(high, 1), vector_of(bits, 1), ahead + 192, of_runs, place + 64)
        column(vector_of(low, 2), vector_of(high, 2), vector_of(bits, 2), ahead + 384, of_runs, place + 128)
        column(vector_of(low, 3), vector_of(high, 3), vector_of(bits, 3), ahead + 576, of_runs, place + 192)

    return unpack_quarter


@inline
def _four_scales(b0, b1, b2, b3):
    return load_four_f16(b0 + D, b1 + D, b2 + D, b3 + D)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: d * scale * (q - 32), from the left."""
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = load_f16(block + D)
        for j in range(16):
            h, run, part = j // 8, j % 8 // 2, j % 2
            low = zero_extend(load_i8x16(block + 64 * h + 32 * (run % 2) + 16 * part))
            bits = zero_extend(load_i8x16(block + QH + 32 * h + 16 * part))
            if run >= 2:
                low, bits = shift_right(low, 4), shift_right(bits, 4)
            if run % 2:
                bits = shift_right(bits, 2)
            q = bor(and_bits(low, 15), shift_left(and_bits(bits, 3), 4))
            factor = splat_f32x16(d * np.float32(load_i8(block + SCALES + j)))
            store(out + 4 * (256 * i + 16 * j), mul(factor, to_f32(sub(q, splat_i32x16(np.int32(32))))))


FORMAT = quantised(
    "Q6_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours(BLOCK_BYTES, _scaled_sums, _four_scales),
    dequantize=dequantize,
    matrix_unit=signed_unit(_unpack_factors, (_quarter(0, 0), _quarter(0, 1), _quarter(1, 0), _quarter(1, 1))),
)
