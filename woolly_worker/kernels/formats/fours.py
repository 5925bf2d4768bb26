"""One row times one token for the formats of 256 weights: four quant blocks at a time.

    acc += d[i] * dx[i] * (integer sum of block i),    block after block

A single row is bound by the number of instructions as much as by memory, and most of those are spent on what happens
once in a block: the sum over lanes and the conversion to float. Four blocks share them, each in a lane of its own; only
the last step goes lane by lane, in the order of the panels. Where less than four blocks are left, the last one stands
in for those that are missing, and their lanes are not used.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8K_BYTES, Q8K_SCALE
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import fma_scalar, lane, load_four_f32, mul, negate, sums_of_four, to_f32

BLOCK = 256
PARTS = 1


@inline
def _add_four(acc, factors, sums, n):
    """The first n lanes' products, one after the other."""
    acc = fma_scalar(lane(factors, 0), lane(sums, 0), acc)
    if n > 1:
        acc = fma_scalar(lane(factors, 1), lane(sums, 1), acc)
    if n > 2:
        acc = fma_scalar(lane(factors, 2), lane(sums, 2), acc)
    if n > 3:
        acc = fma_scalar(lane(factors, 3), lane(sums, 3), acc)
    return acc


@inline
def dot_in_fours(row, x, n_cols, block_bytes, scaled_sums, four_scales):
    """scaled_sums(block, x) -> i32x16          lanes whose sum is the block's, x its activations' record
    four_scales(b0, b1, b2, b3) -> f32x4     d of four blocks
    """
    acc = np.float32(0)
    n_blocks = n_cols // BLOCK
    last = n_blocks - 1
    for i in range(0, n_blocks, 4):
        j, k, m = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        x0, x1, x2, x3 = x + i * Q8K_BYTES, x + j * Q8K_BYTES, x + k * Q8K_BYTES, x + m * Q8K_BYTES
        b0, b1, b2, b3 = row + i * block_bytes, row + j * block_bytes, row + k * block_bytes, row + m * block_bytes
        sums = sums_of_four(scaled_sums(b0, x0), scaled_sums(b1, x1), scaled_sums(b2, x2), scaled_sums(b3, x3))
        dx = load_four_f32(x0 + Q8K_SCALE, x1 + Q8K_SCALE, x2 + Q8K_SCALE, x3 + Q8K_SCALE)
        acc = _add_four(acc, mul(four_scales(b0, b1, b2, b3), dx), to_f32(sums), n_blocks - i)
    return acc


@inline
def _add_four_with_mins(acc, factors, sums, min_factors, mins, n):
    """The first n blocks' products, and behind each its minimum's."""
    acc = fma_scalar(lane(min_factors, 0), lane(mins, 0), fma_scalar(lane(factors, 0), lane(sums, 0), acc))
    if n > 1:
        acc = fma_scalar(lane(min_factors, 1), lane(mins, 1), fma_scalar(lane(factors, 1), lane(sums, 1), acc))
    if n > 2:
        acc = fma_scalar(lane(min_factors, 2), lane(mins, 2), fma_scalar(lane(factors, 2), lane(sums, 2), acc))
    if n > 3:
        acc = fma_scalar(lane(min_factors, 3), lane(mins, 3), fma_scalar(lane(factors, 3), lane(sums, 3), acc))
    return acc


@inline
def dot_in_fours_with_mins(row, x, n_cols, block_bytes, four):
    """The same for formats whose weights are d * q - dmin * m, which may share even the unpacking of scales:
    four(b0, b1, b2, b3, x0, x1, x2, x3) -> (d f32x4, sums i32x4, dmin f32x4, sums of mins i32x4)."""
    acc = np.float32(0)
    n_blocks = n_cols // BLOCK
    last = n_blocks - 1
    for i in range(0, n_blocks, 4):
        j, k, m = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        x0, x1, x2, x3 = x + i * Q8K_BYTES, x + j * Q8K_BYTES, x + k * Q8K_BYTES, x + m * Q8K_BYTES
        b0, b1, b2, b3 = row + i * block_bytes, row + j * block_bytes, row + k * block_bytes, row + m * block_bytes
        d, sums, dmin, mins = four(b0, b1, b2, b3, x0, x1, x2, x3)
        dx = load_four_f32(x0 + Q8K_SCALE, x1 + Q8K_SCALE, x2 + Q8K_SCALE, x3 + Q8K_SCALE)
        factors, min_factors = mul(d, dx), mul(negate(dmin), dx)
        acc = _add_four_with_mins(acc, factors, to_f32(sums), min_factors, to_f32(mins), n_blocks - i)
    return acc
