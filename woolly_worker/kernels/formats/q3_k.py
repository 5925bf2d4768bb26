"""Q3_K: 256 weights in 110 bytes, sixteen sub-blocks of 16 with a 6-bit scale each.

    bytes   0.. 32   hmask    third bits; bit 4 h + k of byte l is that of weight 128 h + 32 k + l
           32.. 96   qs       low two bits; byte 32 h + l holds weight 128 h + 32 k + l in bits 2 k .. 2 k + 2
           96..108   scales   low four bits of scales j and 8 + j in byte j < 8; high two of scale 4 m + j in bits
                              2 m .. 2 m + 2 of byte 8 + j
          108..110   d        f16

    weight = d * (scale - 32) * (q - 4)

(scale - 32) * (q - 4) lies in -124..128: the panel holds it with 127 added, unsigned, and 127 * sum of activations is
taken away, in integers. Where products of bytes are added up in 16 bits, it holds q and the scales instead (bytes of
full range would take twice the instructions), and 4 * sum(scale * sum of activations) is taken away. One token goes
that way too.

Source: ggml-common.h `block_q3_K`, ggml-quants.c `dequantize_row_q3_K`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Q8K_SUMS16, Activation
from woolly_worker.kernels.formats import scaled_panels
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import (
    PANEL_BLOCK_BYTES,
    PANEL_D,
    in_both_halves,
    multiply_bytes,
    unit_of_bytes,
)
from woolly_worker.kernels.formats.q2_k import load_runs
from woolly_worker.kernels.formats.scaled_panels import less_32, multiply_scaled, store_scales
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matrix_unit_parts import UPPER
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    as_i16x32,
    bor,
    concat,
    dot_times,
    gather_columns,
    high_halves_f32,
    load_f16,
    load_four_f16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i16x16,
    load_i32,
    load_i32x16,
    load_u8,
    mul,
    prefetch,
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
    vector_of,
    widen_bytes,
    zero_extend,
    zero_i32x16,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS

BLOCK, BLOCK_BYTES = 256, 110
QS, SCALES, D = 32, 96, 108

QUARTER_AHEAD = 64 * 7  # bytes of sixteen rows that a quarter asks for: its share, in whole cache lines


@inline
def _products(q, scale):
    """(q - 4) * scale + 127 for the four bytes of every lane, from q in 0..7 and its scale, see `in_both_halves`."""
    offset = sub(splat_i32x16(np.int32(127)), shift_left(scale, 2))  # 3..255
    offset = bor(offset, shift_left(offset, 8))
    return add(mul(as_i16x32(q), in_both_halves(scale)), in_both_halves(offset))


@inline
def _four_runs(q, third):
    """Four weights of sixteen rows from each of the four runs of 32; `third` has their third bits in bits 0..4 of every
    byte."""
    return (
        bor(and_bits(q, 0x03030303), shift_left(and_bits(third, 0x01010101), 2)),
        bor(and_bits(shift_right(q, 2), 0x03030303), shift_left(and_bits(third, 0x02020202), 1)),
        bor(and_bits(shift_right(q, 4), 0x03030303), and_bits(third, 0x04040404)),
        bor(and_bits(shift_right(q, 6), 0x03030303), shift_right(and_bits(third, 0x08080808), 1)),
    )


@inline
def _unpack_column(q, third, scale0, scale1, scale2, scale3, place):
    """Times their scales."""
    runs = _four_runs(q, third)
    store(place, _products(runs[0], scale0))
    store(place + 512, _products(runs[1], scale1))
    store(place + 1024, _products(runs[2], scale2))
    store(place + 1536, _products(runs[3], scale3))


@inline
def _scale_of(byte):
    return sub(and_bits(byte, 63), splat_i32x16(np.int32(32)))


@inline
def _unpack_part(q, third0, third1, third2, third3, first, last, ahead, place):
    """Sixteen weights from each of four runs. Their scales are bytes 0 and 2 of the lanes of `first` and `last`. The
    lines of a quarter are asked for from `ahead` on."""
    scale0, scale1 = _scale_of(first), _scale_of(shift_right(first, 16))
    scale2, scale3 = _scale_of(last), _scale_of(shift_right(last, 16))
    prefetch(ahead)
    prefetch(ahead + 64)
    _unpack_column(vector_of(q, 0), third0, scale0, scale1, scale2, scale3, place)
    prefetch(ahead + 128)
    prefetch(ahead + 192)
    _unpack_column(vector_of(q, 1), third1, scale0, scale1, scale2, scale3, place + 64)
    prefetch(ahead + 256)
    prefetch(ahead + 320)
    _unpack_column(vector_of(q, 2), third2, scale0, scale1, scale2, scale3, place + 128)
    prefetch(ahead + 384)
    _unpack_column(vector_of(q, 3), third3, scale0, scale1, scale2, scale3, place + 192)


@inline
def _join_scales(low, high):
    """Four scales in the bytes of every lane."""
    return bor(and_bits(low, 0x0F0F0F0F), shift_left(and_bits(high, 0x03030303), 4))


@inline
def _unpack_factors(block, row_bytes, d):
    """The scales, four of them a lane; d is stored."""
    # The last sixteen bytes of a block: two of qs, the twelve of the scales, d.
    tail = gather_columns(block + BLOCK_BYTES - 16, row_bytes)
    t0, t1, t2, t3 = vector_of(tail, 0), vector_of(tail, 1), vector_of(tail, 2), vector_of(tail, 3)
    store(d, high_halves_f32(t3))
    low0, low1 = bor(shift_right(t0, 16), shift_left(t1, 16)), bor(shift_right(t1, 16), shift_left(t2, 16))
    high = bor(shift_right(t2, 16), shift_left(t3, 16))
    s0, s1 = _join_scales(low0, high), _join_scales(low1, shift_right(high, 2))
    s2 = _join_scales(shift_right(low0, 4), shift_right(high, 4))
    s3 = _join_scales(shift_right(low1, 4), shift_right(high, 6))
    return s0, s1, s2, s3


def _quarter(h: int, part: int) -> Any:
    """For the matrix unit, sixteen weights from each of the four runs of 32 in half h. The third bits of both halves
    wait behind the plane: of each part, half 0 comes first."""
    bits = 8 * part

    @inline
    def third_bits(block, row_bytes, place):
        b = gather_columns(block + 16 * part, row_bytes)
        b0, b1, b2, b3 = vector_of(b, 0), vector_of(b, 1), vector_of(b, 2), vector_of(b, 3)
        store(place, shift_right(b0, 4))
        store(place + 64, shift_right(b1, 4))
        store(place + 128, shift_right(b2, 4))
        store(place + 192, shift_right(b3, 4))
        return b0, b1, b2, b3

    @inline
    def third_bits_again(block, row_bytes, place):
        return load_i32x16(place), load_i32x16(place + 64), load_i32x16(place + 128), load_i32x16(place + 192)

    third_bits_of = third_bits_again if h else third_bits

    @inline
    def unpack_quarter(block, row_bytes, scales, ahead, planes):
        ahead += QUARTER_AHEAD * (2 * h + part)
        b0, b1, b2, b3 = third_bits_of(block, row_bytes, planes + UPPER)
        first, last = shift_right(scales[2 * h], bits), shift_right(scales[2 * h + 1], bits)
        q = gather_columns(block + QS + 32 * h + 16 * part, row_bytes)
        _unpack_part(q, b0, b1, b2, b3, first, last, ahead, planes + 2048 * h + 256 * part)

    return unpack_quarter


if IN_SHORTS:

    @inline
    def _unpack_plain(q, third, place):
        runs = _four_runs(q, third)
        store(place, runs[0])
        store(place + 512, runs[1])
        store(place + 1024, runs[2])
        store(place + 1536, runs[3])

    @inline
    def _unpack_half(qs, third, row_bytes, place):
        q = gather_columns(qs, row_bytes)
        _unpack_plain(vector_of(q, 0), third[0], place)
        _unpack_plain(vector_of(q, 1), third[1], place + 64)
        _unpack_plain(vector_of(q, 2), third[2], place + 128)
        _unpack_plain(vector_of(q, 3), third[3], place + 192)

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        """One block of sixteen rows into a panel: q, and the scales beside it."""
        for line in range(28):  # 16 * 110 bytes of the next sixteen rows, see q4_k
            prefetch(ahead + 64 * line)
        s0, s1, s2, s3 = _unpack_factors(block, row_bytes, panel + scaled_panels.PANEL_D)
        store_scales(less_32(s0), panel, 0)
        store_scales(less_32(s1), panel, 1)
        store_scales(less_32(s2), panel, 2)
        store_scales(less_32(s3), panel, 3)
        for part in range(2):
            third = gather_columns(block + 16 * part, row_bytes)
            b0, b1, b2, b3 = vector_of(third, 0), vector_of(third, 1), vector_of(third, 2), vector_of(third, 3)
            qs, place = block + QS + 16 * part, panel + 256 * part
            _unpack_half(qs, (b0, b1, b2, b3), row_bytes, place)
            upper = shift_right(b0, 4), shift_right(b1, 4), shift_right(b2, 4), shift_right(b3, 4)
            _unpack_half(qs + 32, upper, row_bytes, place + 2048)

    multiply_block = multiply_scaled(7, 4)  # 256 * 127 * 32 * (7 + 4) < 2**31

else:

    @inline
    def unpack_block(block, row_bytes, ahead, panel):
        """One block of sixteen rows into a panel."""
        s0, s1, s2, s3 = _unpack_factors(block, row_bytes, panel + PANEL_D)
        for part in range(2):
            third = gather_columns(block + 16 * part, row_bytes)
            b0, b1, b2, b3 = vector_of(third, 0), vector_of(third, 1), vector_of(third, 2), vector_of(third, 3)
            q = gather_columns(block + QS + 16 * part, row_bytes)
            share = ahead + QUARTER_AHEAD * part
            _unpack_part(q, b0, b1, b2, b3, s0, s1, share, panel + 256 * part)
            b0, b1, b2, b3 = shift_right(b0, 4), shift_right(b1, 4), shift_right(b2, 4), shift_right(b3, 4)
            q = gather_columns(block + QS + 32 + 16 * part, row_bytes)
            _unpack_part(q, b0, b1, b2, b3, s2, s3, share + 2 * QUARTER_AHEAD, panel + 2048 + 256 * part)
            s0, s1, s2, s3 = shift_right(s0, 8), shift_right(s1, 8), shift_right(s2, 8), shift_right(s3, 8)

    multiply_block = multiply_bytes(255, 127)


@inline
def _scales(block):
    """The sixteen scales of one block, as i32x16."""
    low0, low1, high = load_i32(block + SCALES), load_i32(block + SCALES + 4), load_i32(block + SCALES + 8)
    s0 = (low0 & 0x0F0F0F0F) | ((high & 0x03030303) << 4)
    s1 = (low1 & 0x0F0F0F0F) | (((high >> 2) & 0x03030303) << 4)
    s2 = ((low0 >> 4) & 0x0F0F0F0F) | (((high >> 4) & 0x03030303) << 4)
    s3 = ((low1 >> 4) & 0x0F0F0F0F) | (((high >> 6) & 0x03030303) << 4)
    return sub(concat(widen_bytes(s0, s1), widen_bytes(s2, s3)), splat_i32x16(np.int32(32)))


@inline
def _scaled_sums(block, x):
    """Sixteen lanes of partial sums, the same integers by another way: 256 * (7 + 4) * 127 * 32 < 2**31."""
    ask_ahead(block)
    scales, q, bits = _scales(block), load_i8x64(block + QS), load_i8x32(block)
    third = concat(bits, shift_right(bits, 4))
    q0 = bor(and_bits(q, 3), shift_left(and_bits(third, 1), 2))
    q1 = bor(and_bits(shift_right(q, 2), 3), shift_left(and_bits(third, 2), 1))
    q2 = bor(and_bits(shift_right(q, 4), 3), and_bits(third, 4))
    q3 = bor(shift_right(q, 6), shift_right(and_bits(third, 8), 1))
    f = to_factors(scales)
    s = dot_times(zero_i32x16(), q0, load_runs(x), spread_factors(f, "0000111188889999"), 7)
    ask_ahead(block + 64)
    s = dot_times(s, q1, load_runs(x + 32), spread_factors(f, "22223333aaaabbbb"), 7)
    s = dot_times(s, q2, load_runs(x + 64), spread_factors(f, "44445555ccccdddd"), 7)
    s = dot_times(s, q3, load_runs(x + 96), spread_factors(f, "66667777eeeeffff"), 7)
    return sub(s, shift_left(mul(scales, sign_extend(load_i16x16(x + Q8K_SUMS16))), 2))


@inline
def _four_scales(b0, b1, b2, b3):
    return load_four_f16(b0 + D, b1 + D, b2 + D, b3 + D)


@inline
def _scale(block, j):
    low = load_u8(block + SCALES + j % 8) >> (4 * (j // 8))
    high = load_u8(block + SCALES + 8 + j % 4) >> (2 * (j // 4))
    return (low & 15 | (high & 3) << 4) - 32


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operations: (d * (scale - 32)) * (q - 4)."""
    four = splat_i32x16(np.int32(4))
    for i in range(n_cols // BLOCK):
        block = row + i * BLOCK_BYTES
        d = load_f16(block + D)
        for part in range(2):
            third = zero_extend(load_i8x16(block + 16 * part))
            for h in range(2):
                low = zero_extend(load_i8x16(block + QS + 32 * h + 16 * part))
                for k in range(4):
                    q = bor(and_bits(low, 3), shift_left(and_bits(third, 1), 2))
                    factor = splat_f32x16(d * np.float32(_scale(block, 8 * h + 2 * k + part)))
                    place = out + 4 * (256 * i + 128 * h + 32 * k + 16 * part)
                    store(place, mul(factor, to_f32(sub(q, four))))
                    low, third = shift_right(low, 2), shift_right(third, 1)


FORMAT = quantised(
    "Q3_K",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=scaled_panels.PANEL_BLOCK_BYTES if IN_SHORTS else PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours(BLOCK_BYTES, _scaled_sums, _four_scales),
    dequantize=dequantize,
    matrix_unit=unit_of_bytes(
        _unpack_factors, (_quarter(0, 0), _quarter(1, 0), _quarter(0, 1), _quarter(1, 1)), offset=127
    ),
)
