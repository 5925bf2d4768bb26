"""TQ1_0: 256 weights of -1, 0 and 1 in 54 bytes, five in most of them.

    bytes    0..32   qs   byte l: weights       32 n + l, n < 5
            32..48   qs   byte l: weights 160 + 16 n + l, n < 5
            48..52   qh   byte l: weights 240 +  4 n + l, n < 4
            52..54   d    f16

A byte v is v / 256 in base 3. Its first digit is 3 v >> 8, and 3 v modulo 256 has the other digits:

    q[n] = (3**n * v % 256) * 3 >> 8,   weight = d * (q - 1)

The panel and its multiplication are TQ2_0's.

Source: ggml-common.h `block_tq1_0`, ggml-quants.c `dequantize_row_tq1_0`.
"""

from typing import Any

import numpy as np

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.fours import PARTS, in_fours
from woolly_worker.kernels.formats.operations import quantised
from woolly_worker.kernels.formats.panels import PANEL_BLOCK_BYTES, PANEL_D, unit_of_bytes
from woolly_worker.kernels.formats.tq2_0 import multiply_block, without_ones
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    add,
    and_bits,
    as_i16x32,
    bor,
    concat,
    dot_u8i8,
    gather_columns,
    high_halves_f32,
    lanes_i8x16,
    load_f16,
    load_four_f16,
    load_i8x16,
    load_i8x32,
    mul,
    prefetch,
    shift_left,
    shift_right,
    splat_f32x16,
    splat_i32x16,
    spread,
    store,
    sub,
    to_f32,
    vector_of,
    zero_extend,
    zero_i32x16,
)

BLOCK, BLOCK_BYTES = 256, 54
D = 52

QUARTER_AHEAD = 64 * 4  # bytes of sixteen rows that a quarter asks for


@inline
def _next_digit(even, odd):
    """The next digit of 64 bytes, and the bytes that are left: those with even numbers, and those with odd ones, in the
    low halves of 16-bit lanes."""
    even, odd = add(add(even, even), even), add(add(odd, odd), odd)
    return bor(shift_right(even, 8), and_bits(odd, 0xFF00)), and_bits(even, 0xFF), and_bits(odd, 0xFF)


@inline
def _unpack_column(v, place, step):
    """Four times five weights of sixteen rows; `step` is between the n-th and the next in the panel."""
    pairs = as_i16x32(v)
    even, odd = and_bits(pairs, 0xFF), shift_right(pairs, 8)
    for n in range(5):
        q, even, odd = _next_digit(even, odd)
        store(place + step * n, q)


@inline
def unpack_block(block, row_bytes, ahead, panel):
    """One block of sixteen rows into a panel of q, see `panels`."""
    for line in range(14):  # 16 * 54 bytes of the next sixteen rows, see q4_k
        prefetch(ahead + 64 * line)
    for k in range(3):
        v = gather_columns(block + 16 * k, row_bytes)
        place, step = (panel + 256 * k, 512) if k < 2 else (panel + 2560, 256)
        _unpack_column(vector_of(v, 0), place, step)
        _unpack_column(vector_of(v, 1), place + 64, step)
        _unpack_column(vector_of(v, 2), place + 128, step)
        _unpack_column(vector_of(v, 3), place + 192, step)
    tail = gather_columns(block + BLOCK_BYTES - 16, row_bytes)  # the last four bytes of it are two of qh, and d
    qh = bor(shift_right(vector_of(tail, 2), 16), shift_left(vector_of(tail, 3), 16))
    # qh has no fifth digit: what is written in its place is overwritten by d.
    _unpack_column(qh, panel + 3840, 64)
    store(panel + PANEL_D, high_halves_f32(vector_of(tail, 3)))


@inline
def _unpack_factors(block, row_bytes, factors):
    """For the matrix unit; qh is handed on to the last quarter."""
    tail = gather_columns(block + BLOCK_BYTES - 16, row_bytes)
    store(factors, high_halves_f32(vector_of(tail, 3)))
    return bor(shift_right(vector_of(tail, 2), 16), shift_left(vector_of(tail, 3), 16))


def _quarter(k: int) -> Any:
    """Sixteen bytes of qs from every row; the last quarter is qh, whose fifth digits go behind the plane."""
    offset, step = (256 * k, 512) if k < 2 else (2560, 256)

    @inline
    def unpack_quarter(block, row_bytes, qh, ahead, planes):
        v, place = gather_columns(block + 16 * k, row_bytes), planes + offset
        ahead += QUARTER_AHEAD * k
        prefetch(ahead)
        _unpack_column(vector_of(v, 0), place, step)
        prefetch(ahead + 64)
        _unpack_column(vector_of(v, 1), place + 64, step)
        prefetch(ahead + 128)
        _unpack_column(vector_of(v, 2), place + 128, step)
        prefetch(ahead + 192)
        _unpack_column(vector_of(v, 3), place + 192, step)

    @inline
    def unpack_last(block, row_bytes, qh, ahead, planes):
        prefetch(ahead + 3 * QUARTER_AHEAD)
        _unpack_column(qh, planes + 3840, 64)
        prefetch(ahead + 3 * QUARTER_AHEAD + 64)

    return unpack_quarter if k < 3 else unpack_last


@inline
def _digits_of_qh(block):
    """Bytes whose first digits are the weights 240..256: 3**n * qh modulo 256, for n = 0, 1, 2, 3."""
    return mul(spread(load_i8x16(block + BLOCK_BYTES - 16), "abcdabcdabcdabcd"), lanes_i8x16("111133339999rrrr"))


@inline
def _scaled_sums(block, x):
    ask_ahead(block)
    last = concat(load_i8x16(block + 32), _digits_of_qh(block))
    pairs = as_i16x32(concat(load_i8x32(block), last))
    even, odd = and_bits(pairs, 0xFF), shift_right(pairs, 8)
    q, even, odd = _next_digit(even, odd)
    s = dot_u8i8(zero_i32x16(), q, concat(load_i8x32(x), concat(load_i8x16(x + 160), load_i8x16(x + 240))), 2)
    for n in range(1, 5):  # the last sixteen bytes have no more digits
        q, even, odd = _next_digit(even, odd)
        xn = concat(load_i8x16(x + 160 + 16 * n), lanes_i8x16("0000000000000000"))
        s = dot_u8i8(s, q, concat(load_i8x32(x + 32 * n), xn), 2)
    return without_ones(s, x)


@inline
def _four_scales(b0, b1, b2, b3):
    return load_four_f16(b0 + D, b1 + D, b2 + D, b3 + D)


@inline
def _digits_to_f32(v, n_digits, d, place, step):
    """(digit - 1) * d for sixteen bytes in i32 lanes, `step` bytes between a digit's floats and the next one's."""
    for n in range(n_digits):
        tripled = add(add(v, v), v)
        store(place + step * n, mul(to_f32(sub(shift_right(tripled, 8), splat_i32x16(np.int32(1)))), d))
        v = and_bits(tripled, 0xFF)


@inline
def dequantize(row, n_cols, out):
    """One row as f32, with ggml's own operation: (q - 1) * d."""
    for i in range(n_cols // BLOCK):
        block, place = row + i * BLOCK_BYTES, out + 4 * BLOCK * i
        d = splat_f32x16(load_f16(block + D))
        _digits_to_f32(zero_extend(load_i8x16(block)), 5, d, place, 128)
        _digits_to_f32(zero_extend(load_i8x16(block + 16)), 5, d, place + 64, 128)
        _digits_to_f32(zero_extend(load_i8x16(block + 32)), 5, d, place + 640, 64)
        _digits_to_f32(zero_extend(_digits_of_qh(block)), 1, d, place + 960, 64)


FORMAT = quantised(
    "TQ1_0",
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    activation=Activation.Q8K,
    panel_block_bytes=PANEL_BLOCK_BYTES,
    parts=PARTS,
    unpack_block=unpack_block,
    multiply_block=multiply_block,
    in_fours=in_fours(BLOCK_BYTES, _scaled_sums, _four_scales),
    dequantize=dequantize,
    matrix_unit=unit_of_bytes(_unpack_factors, (_quarter(0), _quarter(1), _quarter(2), _quarter(3)), offset=1),
)
