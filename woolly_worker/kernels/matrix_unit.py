"""Matrix times many tokens on a CPU's matrix unit: sixteen rows by sixteen tokens by 64 columns in one instruction.

The matrix unit adds up plain products of bytes, but weights have integer sub-scales within a quant block. So sixteen
rows of a block are unpacked to the products of weights and sub-scales, and each of these is told by two bytes, of a
lower and an upper plane. For example:

    sum of weight * sub-scale * x  =  256 * (sum of upper byte * x)  +  sum of lower byte * x

Each sum is exact in 32 bits, and so is the total: the same integer as `multiply_block`'s, and the same float steps
follow, in the same order for every (row, token). Lanes are tokens here, because rows are what the unit has rows for.

    planes       for the sixteen rows of a block:  [16 rows][256] u8, lower bytes
                                                   [16 rows][256] u8 or i8, upper bytes
                                                   FACTORS_BYTES of what a format's `add_row` wants to know of them
    crosswise    the activations of sixteen tokens, turned on their side: every record of 320 bytes becomes
                 [80 times four bytes][16 tokens]; what is no token holds another's values
    sums         [16 rows][16 tokens] f32 for each sixteen tokens

A block's planes pass over all tokens while they are in L1. What waits for something stands between what does not: the
next block is unpacked while the matrix unit works on the first sixteen tokens, and the float steps of sixteen tokens
lie between the matrix instructions of the next sixteen.
"""

from typing import Any, NamedTuple

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_VALUES
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
    N_COLS,
    N_ROWS,
    OUT,
    OUT_STRIDE,
    PANEL_ROWS,
    ROW_BYTES,
    SCRATCH,
    SCRATCH_STRIDE,
    VECTOR_BYTES,
    WEIGHTS,
    X_STRIDE,
    X,
    rows_one_by_one,
    take_rows,
)
from woolly_worker.kernels.simd import (
    add,
    as_f32x16,
    load_f32x16,
    load_i32x16,
    store,
    zero_f32x16,
)
from woolly_worker.kernels.simd.gathers import gather_columns, gather_first_columns
from woolly_worker.kernels.simd.matrix_unit import (
    MATRIX_BYTES,
    MATRIX_ROW_BYTES,
    matrix_begin,
    matrix_dot_i8i8,
    matrix_dot_u8i8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
)
from woolly_worker.kernels.simd.tiles import vector_of
from woolly_worker.kernels.step import field

TOKENS = 16  # that pass together
LEAST_TOKENS = 6  # fewer are faster without: unpacking into planes costs more than the products save
CROSSWISE_BYTES = TOKENS * Q8K_BYTES  # of one record of sixteen tokens

LOWER, UPPER = 0, 4096
FACTORS = 8192
FACTORS_BYTES = 1024
PLANES_BYTES = FACTORS + FACTORS_BYTES

_PRODUCTS_BYTES = 2 * MATRIX_BYTES  # of the lower and of the upper bytes
_SUMS_BYTES = PANEL_ROWS * VECTOR_BYTES


class MatrixUnit(NamedTuple):
    """What a format brings along.

    unpack_planes(rows, row_bytes, ahead, planes)           one block of sixteen rows; parameters as for `unpack_block`
    of_tokens(record) -> anything                           what add_row wants to know of sixteen tokens
    add_row(planes, r, tokens, lower, upper, acc) -> acc    the float steps of row r of its integers; lanes are tokens
    upper_is_signed                                         whether the upper plane's bytes are
    """

    unpack_planes: Any
    of_tokens: Any
    add_row: Any
    upper_is_signed: bool


def matrix_scratch_bytes(n_cols: int, n_tokens: int) -> int:
    """Room for the scratch of `_places`."""
    sixteens, records = -(-n_tokens // TOKENS), n_cols // Q8K_VALUES
    return 2 * (_PRODUCTS_BYTES + PLANES_BYTES) + sixteens * (_SUMS_BYTES + records * CROSSWISE_BYTES)


@inline
def _places(scratch, sixteens):
    """Where two lots of products lie, two of planes, the sums and the activations crosswise."""
    planes = scratch + 2 * _PRODUCTS_BYTES
    sums = planes + 2 * PLANES_BYTES
    return scratch, planes, sums, sums + sixteens * _SUMS_BYTES


@inline
def _turn_sixteen(x, x_stride, n, out):
    """One record of n tokens, n <= 16."""
    for quarter in range(Q8K_BYTES // 16):
        if n == TOKENS:
            columns = gather_columns(x + 16 * quarter, x_stride)
        else:
            columns = gather_first_columns(x + 16 * quarter, x_stride, n)
        place = out + 256 * quarter
        store(place, vector_of(columns, 0))
        store(place + 64, vector_of(columns, 1))
        store(place + 128, vector_of(columns, 2))
        store(place + 192, vector_of(columns, 3))


@subroutine
def turn(x, x_stride, n_tokens, n_records, out):
    """The activations of all tokens crosswise: [sixteens of tokens][records][CROSSWISE_BYTES] at `out`."""
    for t in range(0, n_tokens, TOKENS):
        for i in range(n_records):
            _turn_sixteen(x + t * x_stride + i * Q8K_BYTES, x_stride, min(TOKENS, n_tokens - t), out)
            out += CROSSWISE_BYTES


@inline
def _store_products(place):
    matrix_store(0, place, VECTOR_BYTES)
    matrix_store(1, place + MATRIX_BYTES, VECTOR_BYTES)


def _times_tokens(unit: MatrixUnit) -> Any:
    """The two halves of a block times all tokens, between which there is time for something else.

    Registers: 0 and 1 the lower and the upper products, 4 and 5 the planes, 6 the tokens.
    """
    dot_upper = matrix_dot_i8i8 if unit.upper_is_signed else matrix_dot_u8i8
    of_tokens, add_row = unit.of_tokens, unit.add_row

    @inline
    def products_of_64(planes, record):
        """64 columns of the planes times sixteen tokens, added up in the registers."""
        matrix_load(4, planes + LOWER, Q8K_VALUES)
        matrix_load(5, planes + UPPER, Q8K_VALUES)
        matrix_load(6, record, MATRIX_ROW_BYTES)
        matrix_dot_u8i8(0, 4, 6)
        dot_upper(1, 5, 6)

    @inline
    def float_steps(planes, first, products, tokens, sums):
        """Rows first .. first + 4 of sixteen tokens."""
        for r in range(first, first + 4):
            lower = load_i32x16(products + r * VECTOR_BYTES)
            upper = load_i32x16(products + MATRIX_BYTES + r * VECTOR_BYTES)
            place = sums + r * VECTOR_BYTES
            store(place, add_row(planes, r, tokens, lower, upper, load_f32x16(place)))

    @inline
    def begin(planes, record):
        """The products of the first sixteen tokens, which stay in the registers."""
        matrix_zero(0)
        matrix_zero(1)
        for k in range(4):
            products_of_64(planes + 64 * k, record + MATRIX_BYTES * k)

    @subroutine
    def go_on(planes, record, stride, sixteens, products, sums):
        """sums += planes . tokens, after `begin`. The record of the next sixteen tokens is `stride` bytes on."""
        place, other = products, products + _PRODUCTS_BYTES
        _store_products(place)
        for _ in range(1, sixteens):
            tokens, following = of_tokens(record), record + stride
            matrix_zero(0)
            matrix_zero(1)
            products_of_64(planes, following)
            float_steps(planes, 0, place, tokens, sums)
            products_of_64(planes + 64, following + MATRIX_BYTES)
            float_steps(planes, 4, place, tokens, sums)
            products_of_64(planes + 128, following + 2 * MATRIX_BYTES)
            float_steps(planes, 8, place, tokens, sums)
            products_of_64(planes + 192, following + 3 * MATRIX_BYTES)
            float_steps(planes, 12, place, tokens, sums)
            _store_products(other)
            record, place, other = following, other, place
            sums += _SUMS_BYTES
        tokens = of_tokens(record)
        for r in range(0, PANEL_ROWS, 4):
            float_steps(planes, r, place, tokens, sums)

    return begin, go_on


@inline
def _clear(sums, n_vectors):
    for k in range(n_vectors):
        store(sums + k * VECTOR_BYTES, zero_f32x16())


@inline
def _write_token(t, n_tokens, value, place, stride, add_to_out):
    if t < n_tokens:
        value = as_f32x16(value)
        if add_to_out:
            value = add(load_f32x16(place + t * stride), value)
        store(place + t * stride, value)


@inline
def _write_out(args, r, n_tokens, sums):
    """[16 rows][16 tokens] to the tokens' own rows."""
    place, stride, add_to_out = field(args, OUT) + 4 * r, field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
    for t in range(0, n_tokens, 4):
        four = gather_columns(sums + t // TOKENS * _SUMS_BYTES + 4 * (t % TOKENS), VECTOR_BYTES)
        _write_token(t, n_tokens, vector_of(four, 0), place, stride, add_to_out)
        _write_token(t + 1, n_tokens, vector_of(four, 1), place, stride, add_to_out)
        _write_token(t + 2, n_tokens, vector_of(four, 2), place, stride, add_to_out)
        _write_token(t + 3, n_tokens, vector_of(four, 3), place, stride, add_to_out)


def matmul_on_matrix_unit(unit: MatrixUnit, block_bytes: int, row_dot: Any) -> Any:
    """The body of a quantised matmul operation with many tokens, for formats whose rows are one partial sum; of the
    parameters see `run_matmul`."""
    unpack_planes = unit.unpack_planes
    begin, go_on = _times_tokens(unit)

    @inline
    def rows_times_tokens(args, first, last, n_tokens, scratch):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // Q8K_VALUES
        sixteens = (n_tokens + TOKENS - 1) // TOKENS
        products, planes, sums, crosswise = _places(scratch, sixteens)
        next_planes = planes + PLANES_BYTES
        for r in range(first, last, PANEL_ROWS):
            rows = w + r * row_bytes
            ahead = rows + PANEL_ROWS * row_bytes
            _clear(sums, sixteens * PANEL_ROWS)
            unpack_planes(rows, row_bytes, ahead, planes)
            for i in range(n_blocks):
                record, at = crosswise + i * CROSSWISE_BYTES, (i + 1) * block_bytes
                begin(planes, record)
                if i + 1 < n_blocks:
                    unpack_planes(rows + at, row_bytes, ahead + PANEL_ROWS * at, next_planes)
                go_on(planes, record, n_blocks * CROSSWISE_BYTES, sixteens, products, sums)
                planes, next_planes = next_planes, planes
            _write_out(args, r, n_tokens, sums)

    @inline
    def matmul(args, step, member, counter):
        n_tokens, n_rows = field(step, field(args, COUNT_FIELD)), field(args, N_ROWS)
        scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
        whole = n_rows - n_rows % PANEL_ROWS
        crosswise = _places(scratch, (n_tokens + TOKENS - 1) // TOKENS)[3]
        is_turned = False
        matrix_begin()
        while True:
            first, last = take_rows(args, counter)
            if first >= n_rows:
                break
            if not is_turned:
                turn(field(args, X), field(args, X_STRIDE), n_tokens, field(args, N_COLS) // Q8K_VALUES, crosswise)
                is_turned = True
            rows_times_tokens(args, first, min(last, whole), n_tokens, scratch)
            rows_one_by_one(args, max(first, whole), last, n_tokens, row_dot)
        matrix_end()

    return matmul
