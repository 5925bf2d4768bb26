"""Blocks of 32 weights with LEAST_TOKENS or more on a CPU's matrix unit.

Such a block has a scale of its own, so that every product of it becomes a float step. A block in `legacy.py`'s panel is
just what the unit takes as its second operand; tokens are its first, read where they lie.

    products    [16 tokens][16 rows] i32 of a block
    sums        [parts][tokens][16 rows] f32

Up to sixteen tokens: the next block is unpacked, and the float steps of the one before are done, while the unit works
on this one. More: panels of whole rows, sixteen tokens at a time; a part's sums stay in registers, and the products of
the next batch of blocks are under way meanwhile. Parts are added up in order, as `matmul.py` does it.
"""

from typing import Any

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN
from woolly_worker.kernels.formats.legacy import BLOCK, PARTS, RUNS
from woolly_worker.kernels.jit import inline, subroutine
from woolly_worker.kernels.matmul import (
    ADD_TO_OUT,
    COUNT_FIELD,
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
    clear,
    put_down_part,
    rows_many_tokens,
    rows_one_by_one,
    take_rows,
)
from woolly_worker.kernels.matrix_unit_few import following, next_block
from woolly_worker.kernels.matrix_unit_parts import TOKENS, whole_panels
from woolly_worker.kernels.simd.matrix_unit import (
    MATRIX_BYTES,
    matrix_begin_runs,
    matrix_dot_i8u8,
    matrix_end,
    matrix_load,
    matrix_store,
    matrix_zero,
)
from woolly_worker.kernels.simd.tiles import load_each, store_each, zeros_f32, zeros_i32, zeros_i32_like
from woolly_worker.kernels.step import field

LEAST_TOKENS = 6  # fewer are faster in vectors
BATCH = 8  # blocks of a part
_STEP = BATCH * PARTS  # from the first block of a batch to that of the next one of this part


@inline
def _values_of(x, i):
    """Where a token has the values of block i."""
    return x + i // RUNS * Q8_BYTES + i % RUNS * Q8_RUN


def _rows_times_few_with(block_bytes: int, panel_bytes: int, unpack_block: Any, add_products: Any) -> Any:
    """Up to sixteen tokens. Scratch: the sums, two lots of products, three panels of a block."""
    share = PANEL_ROWS * block_bytes

    @inline
    def float_steps(panel, x, x_stride, i, n_tokens, products, sums):
        for t in range(n_tokens):
            place = sums + (i % PARTS * n_tokens + t) * VECTOR_BYTES
            s = load_each(products + t * VECTOR_BYTES, VECTOR_BYTES, zeros_i32(1))
            acc = load_each(place, VECTOR_BYTES, zeros_f32(1))
            store_each(place, VECTOR_BYTES, add_products(panel, x + t * x_stride, i, x_stride, acc, s))

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
                matrix_zero(2)
                matrix_load(6, _values_of(x, i), x_stride)
                matrix_load(5, panel, VECTOR_BYTES)
                matrix_dot_i8u8(2, 6, 5)
                unpack_block(block, row_bytes, w + r_ahead * row_bytes + i_next * share, next_panel)
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
def _multiply_batch(panel, panel_bytes, x, x_stride, first, n_blocks, products):
    for i in range(first, min(first + _STEP, n_blocks), PARTS):
        matrix_zero(0)
        matrix_load(4, _values_of(x, i), x_stride)
        matrix_load(5, panel + i * panel_bytes, VECTOR_BYTES)
        matrix_dot_i8u8(0, 4, 5)
        matrix_store(0, products, VECTOR_BYTES)
        products += MATRIX_BYTES


def _tile_with(add_products: Any) -> Any:
    """The `whole_tile` of `rows_many_tokens` for sixteen tokens."""

    @subroutine
    def whole_tile(panel, panel_bytes, x, x_stride, sums, n_blocks, place, stride, add_to_out):
        products = sums + TOKENS * VECTOR_BYTES
        other = products + BATCH * MATRIX_BYTES
        _multiply_batch(panel, panel_bytes, x, x_stride, 0, n_blocks, products)
        for part in range(PARTS):
            acc = zeros_f32(TOKENS)
            for first in range(part, n_blocks, _STEP):
                following_batch = first + _STEP
                if following_batch >= n_blocks:
                    following_batch = part + 1 if part + 1 < PARTS else n_blocks
                _multiply_batch(panel, panel_bytes, x, x_stride, following_batch, n_blocks, other)
                at = products
                for i in range(first, min(first + _STEP, n_blocks), PARTS):
                    s = load_each(at, VECTOR_BYTES, zeros_i32_like(acc))
                    acc = add_products(panel + i * panel_bytes, x, i, x_stride, acc, s)
                    at += MATRIX_BYTES
                products, other = other, products
            put_down_part(part, PARTS, acc, sums, place, stride, add_to_out)

    return whole_tile


def legacy_on_matrix_unit(
    sizes: tuple[int, int], unpack_block: Any, multiply_block: Any, add_products: Any, row_dot: Any
) -> Any:
    """The body of a matmul operation with so many tokens; of the parameters see `run_matmul`.

    add_products(panel, x, i, x_stride, acc, s) -> acc    the float step of block i, s the products of its tokens
    """
    rows_times_few = _rows_times_few_with(*sizes, unpack_block, add_products)
    whole_tile = _tile_with(add_products)

    @inline
    def matmul(args, step, member, counter):
        n_tokens, n_rows, whole = field(step, field(args, COUNT_FIELD)), field(args, N_ROWS), whole_panels(args)
        sums = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
        panel = sums + PARTS * FEW_TOKENS * VECTOR_BYTES
        if member == 0:
            rows_one_by_one(args, whole, n_rows, n_tokens, row_dot)
        matrix_begin_runs(min(n_tokens, TOKENS))
        if n_tokens <= TOKENS:
            rows_times_few(args, counter, n_tokens, sums)
        else:
            while True:
                first, last = take_rows(args, counter)
                if first >= whole:
                    break
                rows_many_tokens(
                    args,
                    first,
                    min(last, whole),
                    n_tokens,
                    sums,
                    panel,
                    BLOCK,
                    sizes,
                    PARTS,
                    unpack_block,
                    multiply_block,
                    TOKENS,
                    whole_tile,
                )
        matrix_end()

    return matmul
