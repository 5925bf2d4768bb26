"""Matrix times many tokens on a CPU's matrix unit: sixteen tokens by sixteen rows by 64 columns in one instruction.

The matrix unit adds up plain products of bytes, but weights have integer sub-scales within a quant block. So sixteen
rows of a block are unpacked to the products of weights and sub-scales, and each of these is told by two bytes, of a
lower and an upper plane. For example:

    sum of weight * sub-scale * x  =  256 * (sum of upper byte * x)  +  sum of lower byte * x

Each sum is exact in 32 bits, and so is the total: the same integer as `multiply_block`'s, and the same float steps
follow, in the same order for every (row, token). Lanes are rows, as in the panels of `matmul.py`, and tokens are read
where they lie.

    planes     for sixteen rows of a block:  [64 groups][16 rows][4 columns] u8, lower bytes
                                             the same, u8 or i8, upper bytes
    factors    what a format's float steps want to know of sixteen rows of a block
    products   [16 tokens][16 rows] i32 of the lower bytes, then of the upper ones
    sums       [tokens][16 rows] f32

What waits for something stands between what does not: with sixteen tokens or fewer, a quarter of the next block is
unpacked after every fourth of this block's products, and the float steps of the block before are done in between. With
more, two panels share what they read of the tokens, and the float steps of sixteen tokens lie between the products of
the next ones.

Registers: 0 and 1 take the lower and upper products of sixteen tokens, which come through 6; 2, 3 and 7 do the same for
fewer tokens; the planes pass through 4 and 5.
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
from woolly_worker.kernels.simd import add, load_f32x16, load_i32x16, store, zero_f32x16
from woolly_worker.kernels.simd.matrix_unit import (
    MATRIX_BYTES,
    matrix_begin,
    matrix_dot_i8i8,
    matrix_dot_i8u8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
)
from woolly_worker.kernels.step import field

TOKENS = 16  # that pass together
LEAST_TOKENS = 2

LOWER, UPPER = 0, 4096
PLANES_BYTES = 8192
FACTORS_BYTES = 512

_PRODUCTS_BYTES = 2 * MATRIX_BYTES  # of the lower and of the upper bytes
_PASS_BYTES = 1 << 20  # of activations that pass together: they stay in L2 from one panel to the next


class MatrixUnit(NamedTuple):
    """What a format brings along.

    unpack_factors(block, row_bytes, factors) -> scales    of one block of sixteen rows; what the quarters need of them
                                                           stays in registers
    quarters     four of  unpack(block, row_bytes, scales, ahead, planes):  a quarter of the weights each, in any order
                 of columns; `ahead` is where an equal share of the next sixteen rows lies, to prefetch
    load_factors(factors) -> vectors                       what add_token wants of them
    add_token(vectors, record, lower, upper, acc) -> acc   the float steps of a token's integers; lanes are rows
    upper_is_signed                                        whether the upper plane's bytes are
    """

    unpack_factors: Any
    quarters: tuple[Any, Any, Any, Any]
    load_factors: Any
    add_token: Any
    upper_is_signed: bool


def _tokens_of_a_pass(x_stride):
    return max(TOKENS, _PASS_BYTES // x_stride // TOKENS * TOKENS)


_tokens_per_pass = inline(_tokens_of_a_pass)


def matrix_scratch_bytes(x_stride: int, n_tokens: int) -> int:
    """Room for the scratch of `_places`, for tokens of so many bytes."""
    sixteens = -(-min(n_tokens, _tokens_of_a_pass(x_stride)) // TOKENS)
    return 2 * (PLANES_BYTES + _PRODUCTS_BYTES) + 3 * FACTORS_BYTES + 2 * sixteens * TOKENS * VECTOR_BYTES


@inline
def _places(scratch):
    """Where two lots of planes lie, two of products, three of factors, and the sums."""
    products = scratch + 2 * PLANES_BYTES
    factors = products + 2 * _PRODUCTS_BYTES
    return scratch, products, factors, factors + 3 * FACTORS_BYTES


@inline
def _clear(sums, n_tokens):
    for t in range(n_tokens):
        store(sums + t * VECTOR_BYTES, zero_f32x16())


@inline
def _write_out(args, r, first, n_tokens, sums):
    """[tokens][16 rows] to the tokens' own rows."""
    stride, add_to_out = field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
    place = field(args, OUT) + 4 * r + first * stride
    for t in range(n_tokens):
        value = load_f32x16(sums + t * VECTOR_BYTES)
        if add_to_out:
            value = add(load_f32x16(place), value)
        store(place, value)
        place += stride


def _unpack_with(unit: MatrixUnit) -> Any:
    """A whole block of sixteen rows."""
    unpack_factors = unit.unpack_factors
    unpack_0, unpack_1, unpack_2, unpack_3 = unit.quarters

    @subroutine
    def unpack(block, row_bytes, ahead, planes, factors):
        scales = unpack_factors(block, row_bytes, factors)
        unpack_0(block, row_bytes, scales, ahead, planes)
        unpack_1(block, row_bytes, scales, ahead, planes)
        unpack_2(block, row_bytes, scales, ahead, planes)
        unpack_3(block, row_bytes, scales, ahead, planes)

    return unpack


def _products_with(unit: MatrixUnit) -> tuple[Any, Any]:
    """64 columns of the planes times sixteen tokens, and times fewer, added up in their registers."""
    dot_upper = matrix_dot_i8i8 if unit.upper_is_signed else matrix_dot_i8u8

    @inline
    def of_sixteen(planes, record, x_stride, quarter):
        matrix_load(4, planes + LOWER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(5, planes + UPPER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(6, record + 64 * quarter, x_stride)
        matrix_dot_i8u8(0, 6, 4)
        dot_upper(1, 6, 5)

    @inline
    def of_fewer(planes, record, x_stride, quarter):
        matrix_load(4, planes + LOWER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(5, planes + UPPER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(7, record + 64 * quarter, x_stride)
        matrix_dot_i8u8(2, 7, 4)
        dot_upper(3, 7, 5)

    return of_sixteen, of_fewer


def _float_steps_with(unit: MatrixUnit) -> Any:
    add_token = unit.add_token

    @inline
    def float_steps(factors, products, record, x_stride, sums, first, n):
        """Tokens first .. first + n of sixteen. `factors` are vectors, `record` is the first token's."""
        for t in range(first, first + n):
            lower = load_i32x16(products + t * VECTOR_BYTES)
            upper = load_i32x16(products + MATRIX_BYTES + t * VECTOR_BYTES)
            place = sums + t * VECTOR_BYTES
            store(place, add_token(factors, record + t * x_stride, lower, upper, load_f32x16(place)))

    return float_steps


@inline
def whole_panels(args):
    """Where the rows end that fill panels."""
    return field(args, N_ROWS) // PANEL_ROWS * PANEL_ROWS


@inline
def _following(args, counter, r, last):
    """The panel behind r and the end of its run, which may be the next one: then this is where rows are taken."""
    r += PANEL_ROWS
    if r >= min(last, whole_panels(args)):
        r, last = take_rows(args, counter)
    return min(r, whole_panels(args)), last


def _rows_times_few(unit: MatrixUnit, block_bytes: int) -> Any:
    """Rows times up to sixteen tokens, block after block, while the next block is unpacked. A run of rows is taken
    before the last one is done, so that nothing stops in between."""
    unpack, unpack_factors, load_factors = _unpack_with(unit), unit.unpack_factors, unit.load_factors
    unpack_0, unpack_1, unpack_2, unpack_3 = unit.quarters
    products_of_64, float_steps = _products_with(unit)[1], _float_steps_with(unit)

    @inline
    def rows_times_few(args, counter, n_tokens, scratch):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // Q8K_VALUES
        x, x_stride, whole = field(args, X), field(args, X_STRIDE), whole_panels(args)
        planes, products, factors, sums = _places(scratch)
        next_planes, next_products = planes + PLANES_BYTES, products + _PRODUCTS_BYTES
        next_factors, factors_before = factors + FACTORS_BYTES, factors + 2 * FACTORS_BYTES
        share = PANEL_ROWS * block_bytes
        r, last = take_rows(args, counter)
        if r >= whole:
            return
        # Of panel r the products are made, of r_next the weights are unpacked, and r_ahead is asked for.
        r_next, i, r_before, i_before = r, 0, r, -1
        r_ahead, last = _following(args, counter, r, last)
        block = w + r * row_bytes
        unpack(block, row_bytes, w + r_ahead * row_bytes, planes, factors)
        while True:
            # The products of block i, the weights of the block behind it, the float steps of the one before it.
            record, i_next = x + i * Q8K_BYTES, i + 1
            if i_next == n_blocks:
                r_next, i_next = r_ahead, 0
                if r_ahead < whole:
                    r_ahead, last = _following(args, counter, r_ahead, last)
            if r_next < whole:  # nothing is behind the last block: any will do
                block = w + r_next * row_bytes + i_next * block_bytes
            ahead = w + r_ahead * row_bytes + i_next * share
            matrix_zero(2)
            matrix_zero(3)
            products_of_64(planes, record, x_stride, 0)
            scales = unpack_factors(block, row_bytes, next_factors)
            unpack_0(block, row_bytes, scales, ahead, next_planes)
            products_of_64(planes, record, x_stride, 1)
            if i_before == 0:
                _clear(sums, n_tokens)
            if i_before >= 0:
                vectors = load_factors(factors_before)
                float_steps(vectors, products, x + i_before * Q8K_BYTES, x_stride, sums, 0, n_tokens)
            if i_before == n_blocks - 1:
                _write_out(args, r_before, 0, n_tokens, sums)
            if r >= whole:
                break
            unpack_1(block, row_bytes, scales, ahead, next_planes)
            products_of_64(planes, record, x_stride, 2)
            unpack_2(block, row_bytes, scales, ahead, next_planes)
            products_of_64(planes, record, x_stride, 3)
            unpack_3(block, row_bytes, scales, ahead, next_planes)
            matrix_store(2, next_products, VECTOR_BYTES)
            matrix_store(3, next_products + MATRIX_BYTES, VECTOR_BYTES)
            planes, next_planes = next_planes, planes
            products, next_products = next_products, products
            factors_before, factors, next_factors = factors, next_factors, factors_before
            r_before, i_before, r, i = r, i, r_next, i_next

    return rows_times_few


def _panels_times_tokens(unit: MatrixUnit) -> Any:
    """Two panels of one block times all tokens of a pass."""
    of_sixteen, of_fewer = _products_with(unit)
    load_factors, float_steps = unit.load_factors, _float_steps_with(unit)

    @inline
    def fewer_tokens(planes, factors, record, x_stride, n, place, sums):
        matrix_zero(2)
        matrix_zero(3)
        of_fewer(planes, record, x_stride, 0)
        of_fewer(planes, record, x_stride, 1)
        of_fewer(planes, record, x_stride, 2)
        of_fewer(planes, record, x_stride, 3)
        matrix_store(2, place, VECTOR_BYTES)
        matrix_store(3, place + MATRIX_BYTES, VECTOR_BYTES)
        float_steps(load_factors(factors), place, record, x_stride, sums, 0, n)

    @subroutine
    def panels_times_tokens(planes, factors, n_panels, x, x_stride, n_tokens, products, sums, panel_sums):
        """sums[panel, t] += planes[panel] . x[t]; `x` is the first token's record of this block."""
        place, other = products, products + _PRODUCTS_BYTES
        whole = n_tokens // TOKENS
        factors_before, record_before, sums_before = factors, x, sums
        for t in range(whole):
            for panel in range(n_panels):
                here, record = planes + panel * PLANES_BYTES, x + t * TOKENS * x_stride
                matrix_zero(0)
                matrix_zero(1)
                of_sixteen(here, record, x_stride, 0)
                if t + panel > 0:
                    vectors = load_factors(factors_before)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 0, 4)
                    of_sixteen(here, record, x_stride, 1)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 4, 4)
                    of_sixteen(here, record, x_stride, 2)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 8, 4)
                    of_sixteen(here, record, x_stride, 3)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 12, 4)
                else:
                    of_sixteen(here, record, x_stride, 1)
                    of_sixteen(here, record, x_stride, 2)
                    of_sixteen(here, record, x_stride, 3)
                matrix_store(0, place, VECTOR_BYTES)
                matrix_store(1, place + MATRIX_BYTES, VECTOR_BYTES)
                factors_before, record_before = factors + panel * FACTORS_BYTES, record
                sums_before = sums + panel * panel_sums + t * TOKENS * VECTOR_BYTES
                place, other = other, place
        if whole > 0:
            float_steps(load_factors(factors_before), other, record_before, x_stride, sums_before, 0, TOKENS)
        n = n_tokens - whole * TOKENS
        if n > 0:
            record, sums = x + whole * TOKENS * x_stride, sums + whole * TOKENS * VECTOR_BYTES
            for panel in range(n_panels):
                at, to = planes + panel * PLANES_BYTES, sums + panel * panel_sums
                fewer_tokens(at, factors + panel * FACTORS_BYTES, record, x_stride, n, place, to)

    return panels_times_tokens


def _rows_times_many(unit: MatrixUnit, block_bytes: int) -> Any:
    """Rows times more than sixteen tokens: two panels at a time."""
    unpack, panels_times_tokens = _unpack_with(unit), _panels_times_tokens(unit)

    @inline
    def rows_times_run(args, first, last, n_tokens, scratch):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // Q8K_VALUES
        x, x_stride = field(args, X), field(args, X_STRIDE)
        planes, products, factors, sums = _places(scratch)
        per_pass = _tokens_per_pass(x_stride)
        panel_sums = min(n_tokens, per_pass) * VECTOR_BYTES
        panel_bytes, share = PANEL_ROWS * row_bytes, PANEL_ROWS * block_bytes
        for r in range(first, last, 2 * PANEL_ROWS):
            n_panels = min(2, (last - r) // PANEL_ROWS)
            for t in range(0, n_tokens, per_pass):
                n = min(per_pass, n_tokens - t)
                _clear(sums, n)
                _clear(sums + panel_sums, n)
                for i in range(n_blocks):
                    for panel in range(n_panels):
                        rows = w + (r + panel * PANEL_ROWS) * row_bytes
                        ahead, block = rows + n_panels * panel_bytes + i * share, rows + i * block_bytes
                        unpack(block, row_bytes, ahead, planes + panel * PLANES_BYTES, factors + panel * FACTORS_BYTES)
                    record = x + t * x_stride + i * Q8K_BYTES
                    panels_times_tokens(planes, factors, n_panels, record, x_stride, n, products, sums, panel_sums)
                for panel in range(n_panels):
                    _write_out(args, r + panel * PANEL_ROWS, t, n, sums + panel * panel_sums)

    @inline
    def rows_times_many(args, counter, n_tokens, scratch):
        while True:
            first, last = take_rows(args, counter)
            if first >= whole_panels(args):
                break
            rows_times_run(args, first, min(last, whole_panels(args)), n_tokens, scratch)

    return rows_times_many


def matmul_on_matrix_unit(unit: MatrixUnit, block_bytes: int, row_dot: Any) -> Any:
    """The body of a quantised matmul operation with many tokens, for formats whose rows are one partial sum; of the
    parameters see `run_matmul`."""
    rows_times_few, rows_times_many = _rows_times_few(unit, block_bytes), _rows_times_many(unit, block_bytes)

    @inline
    def matmul(args, step, member, counter):
        n_tokens, n_rows = field(step, field(args, COUNT_FIELD)), field(args, N_ROWS)
        scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
        matrix_begin(n_tokens % TOKENS if n_tokens % TOKENS else TOKENS)
        if n_tokens <= TOKENS:
            rows_times_few(args, counter, n_tokens, scratch)
        else:
            rows_times_many(args, counter, n_tokens, scratch)
        matrix_end()
        if member == 0:
            rows_one_by_one(args, whole_panels(args), n_rows, n_tokens, row_dot)

    return matmul
