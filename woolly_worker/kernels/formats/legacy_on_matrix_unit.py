"""Blocks of 32 weights with LEAST_TOKENS or more on a CPU's matrix unit.

Such a block has a scale of its own, so that every product of it becomes a float step. A block in `legacy.py`'s panel is
just what the unit takes as its second operand; tokens are its first, read where they lie.

    products    [16 tokens][16 rows] i32 of a block
    sums        [parts][tokens][16 rows] f32

Up to sixteen tokens: the next block is unpacked, and the float steps of the one before are done, while the unit works
on this one. More: panels of whole rows, sixteen tokens at a time, and as many as L2 holds for a run of rows; a part's
sums stay in registers, and the products of the next two blocks are under way meanwhile. Parts are added up in order, as
`matmul.py` does it.
"""

from typing import Any, NamedTuple

from woolly_worker.kernels.formats.legacy import BLOCK, PARTS, values_of
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
    EARLY_ROWS,
    FEW_TOKENS,
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
    add_up,
    ask_early,
    clear,
    put_down_part,
    rows_one_by_one,
    take_rows,
)
from woolly_worker.kernels.matrix_unit_few import following, next_block
from woolly_worker.kernels.matrix_unit_parts import TOKENS, tokens_of_a_pass, whole_panels
from woolly_worker.kernels.simd import (
    load_each,
    matrix_begin_runs,
    matrix_dot_i8i8,
    matrix_dot_i8u8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
    store_each,
    zeros_f32,
    zeros_i32,
    zeros_i32_like,
)
from woolly_worker.kernels.simd.sizes import MATRIX_BYTES
from woolly_worker.kernels.step import field

LEAST_TOKENS = 6  # fewer are faster in vectors


class LegacyUnit(NamedTuple):
    """What a format brings along.

    unpack_block(block, row_bytes, ahead, panel)          as in `run_matmul`
    add_products(panel, x, i, x_stride, acc, s) -> acc    the float step of block i, s the products of its tokens
    is_signed                                             whether the panel's bytes are
    """

    unpack_block: Any
    add_products: Any
    is_signed: bool


def _multiply_with(unit: LegacyUnit, products: int, tokens: int) -> Any:
    """Into the register `products`, by way of the register `tokens`."""
    dot = matrix_dot_i8i8 if unit.is_signed else matrix_dot_i8u8

    @inline
    def multiply(panel, values, x_stride):
        matrix_zero(products)
        matrix_load(tokens, values, x_stride)
        matrix_load(5, panel, VECTOR_BYTES)
        dot(products, tokens, 5)

    return multiply


def _float_steps_with(add_products: Any) -> Any:
    @inline
    def float_steps(panel, x, x_stride, i, n_tokens, products, sums):
        """Block i, with sums in memory."""
        for t in range(n_tokens):
            place = sums + (i % PARTS * n_tokens + t) * VECTOR_BYTES
            s = load_each(products + t * VECTOR_BYTES, VECTOR_BYTES, zeros_i32(1))
            acc = load_each(place, VECTOR_BYTES, zeros_f32(1))
            store_each(place, VECTOR_BYTES, add_products(panel, x + t * x_stride, i, x_stride, acc, s))

    return float_steps


def _rows_times_few_with(block_bytes: int, panel_bytes: int, unit: LegacyUnit) -> Any:
    """Up to sixteen tokens. Scratch: the sums, two lots of products, three panels of a block."""
    unpack_block, multiply = unit.unpack_block, _multiply_with(unit, 2, 6)
    float_steps = _float_steps_with(unit.add_products)
    share = PANEL_ROWS * block_bytes

    @inline
    def rows_times_few(args, counter, n_tokens, sums):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // BLOCK
        x, x_stride, whole = field(args, X), field(args, X_STRIDE), whole_panels(args)
        out, out_stride = field(args, OUT), field(args, OUT_STRIDE)
        part_bytes = n_tokens * VECTOR_BYTES
        products = sums + PARTS * TOKENS * VECTOR_BYTES
        next_products, panel = products + MATRIX_BYTES, products + 2 * MATRIX_BYTES
        next_panel, panel_before = panel + panel_bytes, panel + 2 * panel_bytes
        while True:
            r, last = take_rows(args, counter)
            if r >= whole:
                break
            # Of panel r the products are made, of r_next the weights are unpacked, and r_ahead is asked for.
            r_next, i, r_before, i_before = r, 0, r, -1
            r_ahead, last = following(args, counter, r, last)
            block = w + r * row_bytes
            unpack_block(block, row_bytes, w + r_ahead * row_bytes, panel)
            while True:
                r_next, i_next, r_ahead, last = next_block(args, counter, r_next, i, n_blocks, r_ahead, last)
                if r_next < whole:  # nothing is behind the last block: any will do
                    block = w + r_next * row_bytes + i_next * block_bytes
                multiply(panel, values_of(x, i), x_stride)
                at = i_next * share
                ask_early(w + (r_ahead + EARLY_ROWS) * row_bytes, at, at + share)
                unpack_block(block, row_bytes, w + r_ahead * row_bytes + at, next_panel)
                if i_before == 0:
                    clear(sums, PARTS * n_tokens)
                if i_before >= 0:
                    float_steps(panel_before, x, x_stride, i_before, n_tokens, products, sums)
                if i_before == n_blocks - 1:
                    place = out + 4 * r_before
                    add_up(sums, part_bytes, PARTS, n_tokens, place, out_stride, field(args, ADD_TO_OUT))
                if r >= whole:
                    break
                matrix_store(2, next_products, VECTOR_BYTES)
                products, next_products = next_products, products
                panel_before, panel, next_panel = panel, next_panel, panel_before
                r_before, i_before, r, i = r, i, r_next, i_next

    return rows_times_few


@inline
def _block_behind(i, n_blocks):
    """The next block of the same part, or the first of the next part; behind the last one any will do."""
    i += PARTS
    return i if i < n_blocks else min(i % PARTS + 1, n_blocks - 1)


def _sixteen_tokens_with(unit: LegacyUnit) -> Any:
    """A panel of whole rows times sixteen tokens."""
    multiply, add_products = _multiply_with(unit, 0, 4), unit.add_products

    @subroutine
    def sixteen_tokens(panel, panel_bytes, x, x_stride, sums, n_blocks, place, stride, add_to_out):
        products = sums + TOKENS * VECTOR_BYTES
        next_products = products + MATRIX_BYTES
        multiply(panel, x, x_stride)
        matrix_store(0, products, VECTOR_BYTES)
        ahead = _block_behind(0, n_blocks)
        multiply(panel + ahead * panel_bytes, values_of(x, ahead), x_stride)
        for part in range(PARTS):
            acc = zeros_f32(TOKENS)
            for i in range(part, n_blocks, PARTS):
                matrix_store(0, next_products, VECTOR_BYTES)
                ahead = _block_behind(ahead, n_blocks)
                multiply(panel + ahead * panel_bytes, values_of(x, ahead), x_stride)
                s = load_each(products, VECTOR_BYTES, zeros_i32_like(acc))
                acc = add_products(panel + i * panel_bytes, x, i, x_stride, acc, s)
                products, next_products = next_products, products
            put_down_part(part, PARTS, acc, sums, place, stride, add_to_out)

    return sixteen_tokens


def _rows_times_many_with(block_bytes: int, panel_bytes: int, unit: LegacyUnit) -> Any:
    unpack_block, sixteen_tokens = unit.unpack_block, _sixteen_tokens_with(unit)
    multiply, float_steps = _multiply_with(unit, 2, 6), _float_steps_with(unit.add_products)
    share = PANEL_ROWS * block_bytes

    @inline
    def fewer_tokens(panel, x, x_stride, n, n_blocks, sums, place, stride, add_to_out):
        products = sums + PARTS * TOKENS * VECTOR_BYTES
        clear(sums, PARTS * n)
        for i in range(n_blocks):
            here = panel + i * panel_bytes
            multiply(here, values_of(x, i), x_stride)
            matrix_store(2, products, VECTOR_BYTES)
            float_steps(here, x, x_stride, i, n, products, sums)
        add_up(sums, n * VECTOR_BYTES, PARTS, n, place, stride, add_to_out)

    @inline
    def rows_times_run(args, first, last, n_tokens, sums, panel):
        w, row_bytes, n_blocks = field(args, WEIGHTS), field(args, ROW_BYTES), field(args, N_COLS) // BLOCK
        out, stride, add_to_out = field(args, OUT), field(args, OUT_STRIDE), field(args, ADD_TO_OUT)
        x_stride = field(args, X_STRIDE)
        per_pass = tokens_of_a_pass(x_stride)
        for t in range(0, n_tokens, per_pass):
            x, n = field(args, X) + t * x_stride, min(per_pass, n_tokens - t)
            whole = n // TOKENS * TOKENS
            for r in range(first, last, PANEL_ROWS):
                rows, place = w + r * row_bytes, out + 4 * r + t * stride
                ahead = rows + PANEL_ROWS * row_bytes
                for i in range(n_blocks):
                    unpack_block(rows + i * block_bytes, row_bytes, ahead + i * share, panel + i * panel_bytes)
                for k in range(0, whole, TOKENS):
                    y, here = x + k * x_stride, place + k * stride
                    sixteen_tokens(panel, panel_bytes, y, x_stride, sums, n_blocks, here, stride, add_to_out)
                if whole < n:
                    y, here = x + whole * x_stride, place + whole * stride
                    fewer_tokens(panel, y, x_stride, n - whole, n_blocks, sums, here, stride, add_to_out)

    @inline
    def rows_times_many(args, counter, n_tokens, sums):
        panel = sums + PARTS * FEW_TOKENS * VECTOR_BYTES
        while True:
            first, last = take_rows(args, counter)
            if first >= whole_panels(args):
                break
            rows_times_run(args, first, min(last, whole_panels(args)), n_tokens, sums, panel)

    return rows_times_many


def legacy_on_matrix_unit(sizes: tuple[int, int], unit: LegacyUnit, row_dot: Any) -> Any:
    """The body of a matmul operation with so many tokens; of the other parameters see `run_matmul`."""
    rows_times_few, rows_times_many = _rows_times_few_with(*sizes, unit), _rows_times_many_with(*sizes, unit)

    @inline
    def matmul(args, step, member, counter):
        n_tokens, n_rows = field(step, field(args, COUNT_FIELD)), field(args, N_ROWS)
        scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
        if member == 0:
            rows_one_by_one(args, whole_panels(args), n_rows, n_tokens, row_dot)
        matrix_begin_runs(n_tokens % TOKENS if n_tokens % TOKENS else TOKENS)
        if n_tokens <= TOKENS:
            rows_times_few(args, counter, n_tokens, scratch)
        else:
            rows_times_many(args, counter, n_tokens, scratch)
        matrix_end()

    return matmul
