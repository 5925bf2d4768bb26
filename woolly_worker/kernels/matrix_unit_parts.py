"""What few and many tokens share on the matrix unit, see `matrix_unit.py`."""

from typing import Any, NamedTuple

from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import ADD_TO_OUT, N_ROWS, OUT, OUT_STRIDE, PANEL_ROWS, VECTOR_BYTES, add_up
from woolly_worker.kernels.simd import load_f32x16, load_i32x16, store
from woolly_worker.kernels.simd.matrix_unit import (
    MATRIX_BYTES,
    matrix_dot_i8i8,
    matrix_dot_i8u8,
    matrix_load,
)
from woolly_worker.kernels.step import field

TOKENS = 16  # that pass together

LOWER, UPPER = 0, 4096
PLANES_BYTES = 8192
FACTORS_BYTES = 512

PRODUCTS_BYTES = 2 * MATRIX_BYTES  # of the lower and of the upper bytes
_PASS_BYTES = 1 << 20  # of activations that pass together: they stay in L2 from one panel to the next


class MatrixUnit(NamedTuple):
    """What a format brings along.

    unpack_factors(block, row_bytes, factors) -> scales    of one block of sixteen rows; what the quarters need of them
                                                           stays in registers
    quarters     four of  unpack(block, row_bytes, scales, ahead, planes):  a quarter of the weights each, that need not
                 be a quarter of the planes; `ahead` is where an equal share of the rows lies that come next, of which
                 each quarter asks for its own part
    load_factors(factors) -> vectors                       what add_token wants of them
    add_token(vectors, record, lower, upper, acc) -> acc   the float steps of a token's integers; lanes are rows
    upper_is_signed                                        whether the upper plane's bytes are
    """

    unpack_factors: Any
    quarters: tuple[Any, Any, Any, Any]
    load_factors: Any
    add_token: Any
    upper_is_signed: bool


@inline
def tokens_of_a_pass(x_stride):
    """Tokens of so many bytes that pass together. Python may call its `py_func`."""
    return max(TOKENS, _PASS_BYTES // x_stride // TOKENS * TOKENS)


def matrix_scratch_bytes(x_stride: int, n_tokens: int) -> int:
    """Room for the scratch of `places`, for tokens that lie at least so many bytes apart."""
    sixteens = -(-min(n_tokens, tokens_of_a_pass.py_func(x_stride)) // TOKENS)
    return 2 * (PLANES_BYTES + PRODUCTS_BYTES) + 3 * FACTORS_BYTES + 2 * sixteens * TOKENS * VECTOR_BYTES


@inline
def places(scratch):
    """Where two lots of planes lie, two of products, three of factors, and the sums."""
    products = scratch + 2 * PLANES_BYTES
    factors = products + 2 * PRODUCTS_BYTES
    return scratch, products, factors, factors + 3 * FACTORS_BYTES


@inline
def write_out(args, row, first_token, n_tokens, sums):
    """[tokens][16 rows] to the tokens' own rows, sixteen results from `row` on."""
    stride = field(args, OUT_STRIDE)
    place = field(args, OUT) + 4 * row + first_token * stride
    add_up(sums, 0, 1, n_tokens, place, stride, field(args, ADD_TO_OUT))


def unpack_with(unit: MatrixUnit) -> Any:
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


def products_with(unit: MatrixUnit) -> tuple[Any, Any]:
    """64 columns of the planes times sixteen tokens, and times fewer, added up in their registers."""
    dot_upper = matrix_dot_i8i8 if unit.upper_is_signed else matrix_dot_i8u8

    def products_in(lower: int, upper: int, tokens: int) -> Any:
        @inline
        def products_of_64(planes, record, x_stride, quarter):
            matrix_load(4, planes + LOWER + MATRIX_BYTES * quarter, VECTOR_BYTES)
            matrix_load(5, planes + UPPER + MATRIX_BYTES * quarter, VECTOR_BYTES)
            matrix_load(tokens, record + 64 * quarter, x_stride)
            matrix_dot_i8u8(lower, tokens, 4)
            dot_upper(upper, tokens, 5)

        return products_of_64

    return products_in(0, 1, 6), products_in(2, 3, 7)


def float_steps_with(unit: MatrixUnit) -> Any:
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
