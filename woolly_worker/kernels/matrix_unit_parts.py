"""What few and many tokens share on the matrix unit, see `matrix_unit.py`."""

from typing import Any, NamedTuple

from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import ADD_TO_OUT, N_ROWS, OUT, OUT_STRIDE, PANEL_ROWS, VECTOR_BYTES, add_up
from woolly_worker.kernels.simd import (
    add,
    load_f32x16,
    load_i32x16,
    matrix_dot_i8i8,
    matrix_dot_i8u8,
    matrix_load,
    matrix_store,
    matrix_zero,
    shift_left,
    store,
)
from woolly_worker.kernels.simd.sizes import MATRIX_BYTES
from woolly_worker.kernels.step import field

TOKENS = 16  # that pass together

LOWER, UPPER = 0, 4096
PLANES_BYTES = 8192
FACTORS_BYTES = 4480  # of which most formats use some hundreds

PRODUCTS_BYTES = 2 * MATRIX_BYTES  # of the lower and of the upper bytes
_PASS_BYTES = 1 << 20  # of activations that pass together: they stay in L2 from one panel to the next


class UpperPlane(NamedTuple):
    """Of products that need two bytes: product = 2**shift * upper byte + lower byte."""

    shift: int
    is_signed: bool


class MatrixUnit(NamedTuple):
    """What a format brings along.

    unpack_factors(block, row_bytes, factors) -> scales    of one block of sixteen rows; `scales` is what the quarters
                                                           want to know of it, best in registers
    quarters     four of  unpack(block, row_bytes, scales, ahead, planes):  a quarter of the work each, one after the
                 other; `ahead` is where an equal share of the rows lies that come next, of which each quarter asks for
                 its own part. They may leave notes behind the factors, and in the upper plane where there is none
    load_factors(factors) -> vectors                       what add_token wants of them
    add_token(vectors, record, total, acc) -> acc          the float steps of a token's integers; lanes are rows
    upper                                                  None where all products fit the lower plane's bytes
    """

    unpack_factors: Any
    quarters: tuple[Any, Any, Any, Any]
    load_factors: Any
    add_token: Any
    upper: UpperPlane | None


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


class Products(NamedTuple):
    """Planes times tokens, added up in the unit's registers.

    start()
    add_64(planes, record, x_stride, quarter)    64 columns of a block; `record` is the first token's
    put_down(place)
    """

    start: Any
    add_64: Any
    put_down: Any


def _of_one_plane(lower: int, tokens: int) -> Products:
    @inline
    def start():
        matrix_zero(lower)

    @inline
    def add_64(planes, record, x_stride, quarter):
        matrix_load(4, planes + LOWER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(tokens, record + 64 * quarter, x_stride)
        matrix_dot_i8u8(lower, tokens, 4)

    @inline
    def put_down(place):
        matrix_store(lower, place, VECTOR_BYTES)

    return Products(start, add_64, put_down)


def _of_two_planes(is_signed: bool, lower: int, upper: int, tokens: int) -> Products:
    dot_upper = matrix_dot_i8i8 if is_signed else matrix_dot_i8u8

    @inline
    def start():
        matrix_zero(lower)
        matrix_zero(upper)

    @inline
    def add_64(planes, record, x_stride, quarter):
        matrix_load(4, planes + LOWER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(5, planes + UPPER + MATRIX_BYTES * quarter, VECTOR_BYTES)
        matrix_load(tokens, record + 64 * quarter, x_stride)
        matrix_dot_i8u8(lower, tokens, 4)
        dot_upper(upper, tokens, 5)

    @inline
    def put_down(place):
        matrix_store(lower, place, VECTOR_BYTES)
        matrix_store(upper, place + MATRIX_BYTES, VECTOR_BYTES)

    return Products(start, add_64, put_down)


def products_with(unit: MatrixUnit) -> tuple[Products, Products]:
    """Of sixteen tokens, and of fewer."""
    if unit.upper is None:
        return _of_one_plane(0, 6), _of_one_plane(2, 7)
    return _of_two_planes(unit.upper.is_signed, 0, 1, 6), _of_two_planes(unit.upper.is_signed, 2, 3, 7)


def _total_with(upper: UpperPlane | None) -> Any:
    if upper is None:
        return load_i32x16
    shift = upper.shift

    @inline
    def total(place):
        return add(load_i32x16(place), shift_left(load_i32x16(place + MATRIX_BYTES), shift))

    return total


def float_steps_with(unit: MatrixUnit) -> Any:
    add_token, total = unit.add_token, _total_with(unit.upper)

    @inline
    def float_steps(factors, products, record, x_stride, sums, first, n):
        """Tokens first .. first + n of sixteen. `factors` are vectors, `record` is the first token's."""
        for t in range(first, first + n):
            place = sums + t * VECTOR_BYTES
            acc = add_token(factors, record + t * x_stride, total(products + t * VECTOR_BYTES), load_f32x16(place))
            store(place, acc)

    return float_steps


@inline
def whole_panels(args):
    """Where the rows end that fill panels."""
    return field(args, N_ROWS) // PANEL_ROWS * PANEL_ROWS
