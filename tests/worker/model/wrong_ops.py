"""Operations that are almost right, for the tests of the self-check."""

from woolly_worker.kernels.formats import q8_0
from woolly_worker.kernels.formats.one_token import dot_of_parts
from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.matmul import rows_one_by_one, run_matmul, tile_of_tokens

SIZES = (q8_0.BLOCK_BYTES, q8_0.FORMAT.panel_block_bytes)
row_dot = dot_of_parts(q8_0.row_parts)


def row_after_row(row_dot):
    """rows_of_one_token without anything that rows share."""

    @inline
    def rows_of_one_token(args, first, last, scratch):
        rows_one_by_one(args, first, last, 1, row_dot)

    return rows_of_one_token


@inline
def row_dot_and_a_bit(row, x, n_cols):
    """Wrong in the last bits: the panels do not agree."""
    return row_dot(row, x, n_cols) * 1.000001


@inline
def multiply_the_first_block(panel, x, i, x_stride, acc):
    """Nothing but the first block counts."""
    if i == 0:
        return q8_0.multiply_block(panel, x, i, x_stride, acc)
    return acc


@inline
def row_dot_of_the_first_block(row, x, n_cols):
    return row_dot(row, x, q8_0.BLOCK)


rows_and_a_bit = row_after_row(row_dot_and_a_bit)
rows_of_the_first_block = row_after_row(row_dot_of_the_first_block)
whole_tile = tile_of_tokens(q8_0.PARTS, q8_0.multiply_block)
whole_tile_of_the_first_block = tile_of_tokens(q8_0.PARTS, multiply_the_first_block)


@op
def matmul_whose_rows_differ(args, step, member, counter):
    run_matmul(
        args,
        step,
        member,
        counter,
        q8_0.BLOCK,
        SIZES,
        q8_0.PARTS,
        q8_0.unpack_block,
        q8_0.multiply_block,
        row_dot_and_a_bit,
        rows_and_a_bit,
        q8_0.unpack_block,
        q8_0.multiply_block,
        whole_tile,
    )


@op
def matmul_of_the_first_block(args, step, member, counter):
    """Rows and panels agree, and are wrong."""
    run_matmul(
        args,
        step,
        member,
        counter,
        q8_0.BLOCK,
        SIZES,
        q8_0.PARTS,
        q8_0.unpack_block,
        multiply_the_first_block,
        row_dot_of_the_first_block,
        rows_of_the_first_block,
        q8_0.unpack_block,
        multiply_the_first_block,
        whole_tile_of_the_first_block,
    )


@op
def nothing(args, step, member, counter):
    """Leaves its result as it was."""
