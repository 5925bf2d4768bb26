"""More than sixteen tokens on the matrix unit: two panels at a time share what they read of the tokens."""

from typing import Any

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_VALUES
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    N_COLS,
    PANEL_ROWS,
    ROW_BYTES,
    VECTOR_BYTES,
    WEIGHTS,
    X_STRIDE,
    X,
    clear,
    take_rows,
)
from woolly_worker.kernels.matrix_unit_parts import (
    FACTORS_BYTES,
    PLANES_BYTES,
    PRODUCTS_BYTES,
    TOKENS,
    MatrixUnit,
    float_steps_with,
    places,
    products_with,
    tokens_of_a_pass,
    unpack_with,
    whole_panels,
    write_out,
)
from woolly_worker.kernels.step import field


def _panels_times_tokens(unit: MatrixUnit) -> Any:
    """Two panels of one block times all tokens of a pass."""
    (start, add_64, put_down), (start_fewer, add_64_fewer, put_down_fewer) = products_with(unit)
    load_factors, float_steps = unit.load_factors, float_steps_with(unit)

    @inline
    def fewer_tokens(planes, factors, record, x_stride, n, place, sums):
        start_fewer()
        add_64_fewer(planes, record, x_stride, 0)
        add_64_fewer(planes, record, x_stride, 1)
        add_64_fewer(planes, record, x_stride, 2)
        add_64_fewer(planes, record, x_stride, 3)
        put_down_fewer(place)
        float_steps(load_factors(factors), place, record, x_stride, sums, 0, n)

    @subroutine
    def panels_times_tokens(planes, factors, n_panels, x, x_stride, n_tokens, products, sums, panel_sums):
        """sums[panel, t] += planes[panel] . x[t]; `x` is the first token's record of this block."""
        place, other = products, products + PRODUCTS_BYTES
        whole = n_tokens // TOKENS
        factors_before, record_before, sums_before = factors, x, sums
        for t in range(whole):
            for panel in range(n_panels):
                here, record = planes + panel * PLANES_BYTES, x + t * TOKENS * x_stride
                start()
                add_64(here, record, x_stride, 0)
                if t + panel > 0:
                    vectors = load_factors(factors_before)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 0, 4)
                    add_64(here, record, x_stride, 1)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 4, 4)
                    add_64(here, record, x_stride, 2)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 8, 4)
                    add_64(here, record, x_stride, 3)
                    float_steps(vectors, other, record_before, x_stride, sums_before, 12, 4)
                else:
                    add_64(here, record, x_stride, 1)
                    add_64(here, record, x_stride, 2)
                    add_64(here, record, x_stride, 3)
                put_down(place)
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


def rows_times_many_with(unit: MatrixUnit, block_bytes: int) -> Any:
    """Rows times more than sixteen tokens: two panels at a time."""
    unpack, panels_times_tokens = unpack_with(unit), _panels_times_tokens(unit)

    @inline
    def rows_times_run(args, first, last, n_tokens, scratch):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // Q8K_VALUES
        x, x_stride = field(args, X), field(args, X_STRIDE)
        planes, products, factors, sums = places(scratch)
        per_pass = tokens_of_a_pass(x_stride)
        panel_sums = min(n_tokens, per_pass) * VECTOR_BYTES
        panel_bytes, share = PANEL_ROWS * row_bytes, PANEL_ROWS * block_bytes
        for t in range(0, n_tokens, per_pass):
            n = min(per_pass, n_tokens - t)
            for r in range(first, last, 2 * PANEL_ROWS):
                n_panels = min(2, (last - r) // PANEL_ROWS)
                clear(sums, n)
                clear(sums + panel_sums, n)
                for i in range(n_blocks):
                    for panel in range(n_panels):
                        rows = w + (r + panel * PANEL_ROWS) * row_bytes
                        ahead, block = rows + n_panels * panel_bytes + i * share, rows + i * block_bytes
                        unpack(block, row_bytes, ahead, planes + panel * PLANES_BYTES, factors + panel * FACTORS_BYTES)
                    record = x + t * x_stride + i * Q8K_BYTES
                    panels_times_tokens(planes, factors, n_panels, record, x_stride, n, products, sums, panel_sums)
                for panel in range(n_panels):
                    write_out(args, r + panel * PANEL_ROWS, t, n, sums + panel * panel_sums)

    @inline
    def rows_times_many(args, counter, n_tokens, scratch):
        while True:
            first, last = take_rows(args, counter)
            if first >= whole_panels(args):
                break
            rows_times_run(args, first, min(last, whole_panels(args)), n_tokens, scratch)

    return rows_times_many
