"""How one token passes through the rows of a matrix of blocks of 32: row after row, or sixteen short rows at once.

Where a row's blocks are dealt to sixteen parts (`sixteens.py`), adding these up in order takes sixteen scalar sums. For
short rows the parts of sixteen rows are put down one below the other instead, and whole columns of them are added, a
row per lane. The order within a row is the same, and so are the bits.

A row of 256 weights would leave half of the lanes empty. Two such rows lie side by side as one of 512 does, so they are
read like one, times the token's values written down twice; each ends up in eight of the lanes.

Longer rows gained with some formats and lost with others (note 0002), so they go one after the other.
"""

from typing import Any

from woolly_worker.kernels.activations import Q8_SCALES, Q8_SUMS, Q8_VALUES
from woolly_worker.kernels.formats.legacy import RUNS
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    N_COLS,
    OUT,
    PANEL_ROWS,
    ROW_BYTES,
    VECTOR_BYTES,
    WEIGHTS,
    X,
    rows_one_by_one,
)
from woolly_worker.kernels.simd import (
    add,
    as_f32x16,
    gather_columns,
    load_f32x16,
    load_i8x32,
    store,
    sum_in_order,
    vector_of,
    zero_f32x16,
)
from woolly_worker.kernels.step import field

HALF_VALUES = Q8_VALUES // 2


def dot_of_parts(row_parts: Any) -> Any:
    """row_dot for a format that has row_parts(row, x, n_cols) -> f32x16."""

    @inline
    def row_dot(row, x, n_cols):
        return sum_in_order(row_parts(row, x, n_cols))

    return row_dot


@inline
def _write_twice(x, out):
    """A record of sixteen runs from the eight at x: what belongs to run i is that of run 8 + i as well."""
    for at in range(0, HALF_VALUES, 32):
        values = load_i8x32(x + at)
        store(out + at, values)
        store(out + HALF_VALUES + at, values)
    for at in (Q8_SCALES, Q8_SUMS):
        numbers = load_i8x32(x + at)
        store(out + at, numbers)
        store(out + at + 2 * RUNS, numbers)


@inline
def _add_up_rows(parts, parts_bytes):
    """The sums of sixteen rows' parts, a row per lane.

    Starting from 0 changes no bits, and neither does leaving out parts that got no block: no part is -0, because it is
    a sum that began with 0, and a scale times an integer is 0 or too large to be rounded to it.
    """
    total = zero_f32x16()
    for at in range(0, parts_bytes, 16):
        columns = gather_columns(parts + at, parts_bytes)
        total = add(total, as_f32x16(vector_of(columns, 0)))
        total = add(total, as_f32x16(vector_of(columns, 1)))
        total = add(total, as_f32x16(vector_of(columns, 2)))
        total = add(total, as_f32x16(vector_of(columns, 3)))
    return total


def sixteen_at_once(row_parts: Any, row_dot: Any) -> Any:
    """Rows first .. last, sixteen at a time where they are short. Scratch: sixteen vectors and a record."""

    @inline
    def rows_of_one_token(args, first, last, scratch):
        n_cols, row_bytes, x = field(args, N_COLS), field(args, ROW_BYTES), field(args, X)
        is_short = n_cols == HALF_VALUES or n_cols == Q8_VALUES  # `in` could raise an exception, for all Numba knows
        stop = last - (last - first) % PANEL_ROWS if is_short else first
        rows_in_vector = 2 if n_cols == HALF_VALUES else 1
        if rows_in_vector == 2:
            x_of_two = scratch + PANEL_ROWS * VECTOR_BYTES
            _write_twice(x, x_of_two)
            x = x_of_two
        parts_bytes = VECTOR_BYTES // rows_in_vector  # of one row
        for r in range(first, stop, PANEL_ROWS):
            rows, place = field(args, WEIGHTS) + r * row_bytes, field(args, OUT) + 4 * r
            for i in range(PANEL_ROWS // rows_in_vector):  # with a step, a range could raise as well
                here = rows + i * rows_in_vector * row_bytes
                store(scratch + i * VECTOR_BYTES, row_parts(here, x, Q8_VALUES))
            total = _add_up_rows(scratch, parts_bytes)
            if field(args, ADD_TO_OUT):
                total = add(load_f32x16(place), total)
            store(place, total)
        rows_one_by_one(args, stop, last, 1, row_dot)

    return rows_of_one_token
