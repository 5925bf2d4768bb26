"""Matrix times many tokens on a CPU's matrix unit: sixteen tokens by sixteen rows by 64 columns in one instruction.

The matrix unit adds up plain products of bytes, but weights have integer sub-scales within a quant block. So sixteen
rows of a block are unpacked to the products of weights and sub-scales. Each of these is told by one byte where all of a
format's fit, else by two, of a lower and an upper plane. For example:

    sum of weight * sub-scale * x  =  256 * (sum of upper byte * x)  +  sum of lower byte * x

Each sum is exact in 32 bits, and so is the total: the same integer as `multiply_block`'s, and the same float steps
follow, in the same order for every (row, token). Lanes are rows, as in the panels of `matmul.py`, and tokens are read
where they lie.

    planes     for sixteen rows of a block:  [64 groups][16 rows][4 columns] u8, lower bytes
                                             the same, u8 or i8, upper bytes, if there are any
    factors    what a format's float steps want to know of sixteen rows of a block
    products   [16 tokens][16 rows] i32 of the lower bytes, then of the upper ones, if there are any
    sums       [tokens][16 rows] f32

What waits for something stands between what does not: with sixteen tokens or fewer, a quarter of the next block is
unpacked after every fourth of this block's products, and the float steps of the block before are done in between. With
more, two panels share what they read of the tokens, and the float steps of sixteen tokens lie between the products of
the next ones.

Turning a block into planes costs so much less than reading it from memory that two tokens gain already.

Registers: 0 and 1 take the lower and upper products of sixteen tokens, which come through 6; 2, 3 and 7 do the same for
fewer tokens; the planes pass through 4 and 5.
"""

from typing import Any

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.matmul import COUNT_FIELD, N_ROWS, SCRATCH, SCRATCH_STRIDE, rows_one_by_one
from woolly_worker.kernels.matrix_unit_few import rows_times_few_with
from woolly_worker.kernels.matrix_unit_many import rows_times_many_with
from woolly_worker.kernels.matrix_unit_parts import TOKENS, MatrixUnit, whole_panels
from woolly_worker.kernels.simd import matrix_begin, matrix_end
from woolly_worker.kernels.step import field


def matmul_on_matrix_unit(unit: MatrixUnit, block_bytes: int, row_dot: Any) -> Any:
    """The body of a quantised matmul operation with two tokens or more, for formats whose rows are one partial sum; of
    the parameters see `run_matmul`."""
    rows_times_few, rows_times_many = rows_times_few_with(unit, block_bytes), rows_times_many_with(unit, block_bytes)

    @inline
    def matmul(args, step, member, counter):
        n_tokens, n_rows = field(step, field(args, COUNT_FIELD)), field(args, N_ROWS)
        scratch = field(args, SCRATCH) + member * field(args, SCRATCH_STRIDE)
        if member == 0:
            rows_one_by_one(args, whole_panels(args), n_rows, n_tokens, row_dot)
        matrix_begin(n_tokens % TOKENS if n_tokens % TOKENS else TOKENS)
        if n_tokens <= TOKENS:
            rows_times_few(args, counter, n_tokens, scratch)
        else:
            rows_times_many(args, counter, n_tokens, scratch)
        matrix_end()

    return matmul
