"""Up to sixteen tokens on the matrix unit: block after block, while the next one is unpacked.

A run of rows is taken before the last one is done, so that nothing stops in between. What lies ahead is asked for line
by line: a core has few buffers for lines that are under way, and reading weights keeps them all busy. So some are
asked for early, see `matmul.ASKS_EARLY`.
"""

from typing import Any

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_VALUES
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import (
    EARLY_ROWS,
    N_COLS,
    N_ROWS,
    PANEL_ROWS,
    ROW_BYTES,
    SHARE,
    WEIGHTS,
    X_STRIDE,
    X,
    ask_early,
    clear,
    take_rows,
)
from woolly_worker.kernels.matrix_unit_parts import (
    FACTORS_BYTES,
    PLANES_BYTES,
    PRODUCTS_BYTES,
    MatrixUnit,
    float_steps_with,
    places,
    products_with,
    unpack_with,
    whole_panels,
    write_out,
)
from woolly_worker.kernels.simd import load_i64
from woolly_worker.kernels.step import field


@inline
def following(args, counter, r, last):
    """The panel behind r and the end of its run, which may be the next one: rows are taken early, as long as there are
    panels for everybody. Without any, it is the end of all rows."""
    r += PANEL_ROWS
    if r >= min(last, whole_panels(args)):
        members = field(args, SHARE) // 2
        if field(args, N_ROWS) - load_i64(counter) < members * PANEL_ROWS:
            return whole_panels(args), last
        r, last = take_rows(args, counter)
    return min(r, whole_panels(args)), last


@inline
def next_block(args, counter, r, i, n_blocks, r_ahead, last):
    """What is behind block i of panel r: its panel and number, the panel that is then ahead, and the end of its run."""
    i += 1
    if i == n_blocks:
        r, i = r_ahead, 0
        if r < whole_panels(args):
            r_ahead, last = following(args, counter, r, last)
    return r, i, r_ahead, last


def rows_times_few_with(unit: MatrixUnit, block_bytes: int) -> Any:
    """Rows times up to sixteen tokens, block after block, while the next block is unpacked. A run of rows is taken
    before the last one is done, so that nothing stops in between."""
    unpack, unpack_factors, load_factors = unpack_with(unit), unit.unpack_factors, unit.load_factors
    unpack_0, unpack_1, unpack_2, unpack_3 = unit.quarters
    start, add_64, put_down = products_with(unit)[1]
    float_steps = float_steps_with(unit)

    @inline
    def rows_times_few(args, counter, n_tokens, scratch):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // Q8K_VALUES
        x, x_stride, whole = field(args, X), field(args, X_STRIDE), whole_panels(args)
        planes, products, factors, sums = places(scratch)
        next_planes, next_products = planes + PLANES_BYTES, products + PRODUCTS_BYTES
        next_factors, factors_before = factors + FACTORS_BYTES, factors + 2 * FACTORS_BYTES
        share = PANEL_ROWS * block_bytes
        quarter = share // 4
        while True:
            r, last = take_rows(args, counter)
            if r >= whole:
                break
            # Of panel r the products are made, of r_next the weights are unpacked, and r_ahead is asked for.
            r_next, i, r_before, i_before = r, 0, r, -1
            r_ahead, last = following(args, counter, r, last)
            block = w + r * row_bytes
            unpack(block, row_bytes, w + r_ahead * row_bytes, planes, factors)
            while True:
                # The products of block i, the weights of the block behind it, the float steps of the one before it.
                record = x + i * Q8K_BYTES
                r_next, i_next, r_ahead, last = next_block(args, counter, r_next, i, n_blocks, r_ahead, last)
                if r_next < whole:  # nothing is behind the last block: any will do
                    block = w + r_next * row_bytes + i_next * block_bytes
                at = i_next * share
                ahead, early = w + r_ahead * row_bytes + at, w + (r_ahead + EARLY_ROWS) * row_bytes
                start()
                add_64(planes, record, x_stride, 0)
                scales = unpack_factors(block, row_bytes, next_factors)
                ask_early(early, at, at + quarter)
                unpack_0(block, row_bytes, scales, ahead, next_planes)
                add_64(planes, record, x_stride, 1)
                if i_before == 0:
                    clear(sums, n_tokens)
                if i_before >= 0:
                    vectors = load_factors(factors_before)
                    float_steps(vectors, products, x + i_before * Q8K_BYTES, x_stride, sums, 0, n_tokens)
                if i_before == n_blocks - 1:
                    write_out(args, r_before, 0, n_tokens, sums)
                if r >= whole:
                    break
                ask_early(early, at + quarter, at + 2 * quarter)
                unpack_1(block, row_bytes, scales, ahead, next_planes)
                add_64(planes, record, x_stride, 2)
                ask_early(early, at + 2 * quarter, at + 3 * quarter)
                unpack_2(block, row_bytes, scales, ahead, next_planes)
                add_64(planes, record, x_stride, 3)
                ask_early(early, at + 3 * quarter, at + share)
                unpack_3(block, row_bytes, scales, ahead, next_planes)
                put_down(next_products)
                planes, next_planes = next_planes, planes
                products, next_products = next_products, products
                factors_before, factors, next_factors = factors, next_factors, factors_before
                r_before, i_before, r, i = r, i, r_next, i_next

    return rows_times_few
