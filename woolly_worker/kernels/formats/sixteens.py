"""One row times one token for the formats of 32 weights: sixteen quant blocks at a time.

    part[i % 16] += d[i] * dx[i] * (integer sum of block i),    then part 0 + part 1 + ... + part 15

Two neighbouring blocks fill a vector of 64 bytes; eight of those are added up together, so that every block's sum is a
lane, and the scales' float steps are done for all sixteen at once. Blocks behind the last whole sixteen come one by
one, each into its own lane.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN, Q8_SCALES, Q8_SUMS
from woolly_worker.kernels.formats.legacy import BLOCK, RUNS
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    fma,
    fma_scalar,
    lane,
    load_f32,
    load_f32x16,
    load_i32,
    load_i32x16,
    mul,
    shift_right_signed,
    splat_f32x16,
    splat_i32x16,
    sub,
    sum_in_order,
    sums_of_eight,
    to_f32,
    with_lane,
    zero_f32x16,
)

ONE_128TH = np.float32(1 / 128)


@inline
def _sums(row, record, block_bytes, pair):
    return sums_of_eight(
        pair(row, record),
        pair(row + 2 * block_bytes, record + 64),
        pair(row + 4 * block_bytes, record + 128),
        pair(row + 6 * block_bytes, record + 192),
        pair(row + 8 * block_bytes, record + 256),
        pair(row + 10 * block_bytes, record + 320),
        pair(row + 12 * block_bytes, record + 384),
        pair(row + 14 * block_bytes, record + 448),
    )


@inline
def dot_in_sixteens(row, x, n_cols, block_bytes, offset, pair, single, scales, scale):
    """Weights d * (q - offset).

    pair(block, x) -> i32x16       q . x of two neighbouring blocks: eight lanes of partial sums each
    single(block, x) -> i32        q . x of one block
    scales(block) -> f32x16        d of sixteen blocks
    scale(block) -> f32            d of one
    """
    acc = zero_f32x16()
    n_blocks = n_cols // BLOCK
    whole = n_blocks - n_blocks % RUNS
    for i in range(0, whole, RUNS):
        block, record = row + i * block_bytes, x + i // RUNS * Q8_BYTES
        of_offset = mul(shift_right_signed(load_i32x16(record + Q8_SUMS), 7), splat_i32x16(np.int32(offset)))
        s = sub(_sums(block, record, block_bytes, pair), of_offset)
        acc = fma(mul(scales(block), load_f32x16(record + Q8_SCALES)), to_f32(s), acc)
    record = x + whole // RUNS * Q8_BYTES
    for run in range(n_blocks - whole):
        block = row + (whole + run) * block_bytes
        s1 = single(block, record + Q8_RUN * run) - np.int32(offset) * (load_i32(record + Q8_SUMS + 4 * run) >> 7)
        factor = scale(block) * load_f32(record + Q8_SCALES + 4 * run)
        acc = with_lane(acc, run, fma_scalar(factor, np.float32(s1), lane(acc, run)))
    return sum_in_order(acc)


@inline
def dot_in_sixteens_with_mins(row, x, n_cols, block_bytes, pair, single, scales, scale):
    """Weights d * q + m; m is the f16 behind d."""
    acc = zero_f32x16()
    n_blocks = n_cols // BLOCK
    whole = n_blocks - n_blocks % RUNS
    for i in range(0, whole, RUNS):
        block, record = row + i * block_bytes, x + i // RUNS * Q8_BYTES
        dx, sums = load_f32x16(record + Q8_SCALES), load_i32x16(record + Q8_SUMS)
        m = mul(scales(block + 2), splat_f32x16(ONE_128TH))
        acc = fma(mul(scales(block), dx), to_f32(_sums(block, record, block_bytes, pair)), acc)
        acc = fma(mul(m, dx), to_f32(sums), acc)
    record = x + whole // RUNS * Q8_BYTES
    for run in range(n_blocks - whole):
        block = row + (whole + run) * block_bytes
        dx1, sum1 = load_f32(record + Q8_SCALES + 4 * run), load_i32(record + Q8_SUMS + 4 * run)
        s1 = single(block, record + Q8_RUN * run)
        value = fma_scalar(scale(block) * dx1, np.float32(s1), lane(acc, run))
        value = fma_scalar(scale(block + 2) * ONE_128TH * dx1, np.float32(sum1), value)
        acc = with_lane(acc, run, value)
    return sum_in_order(acc)
