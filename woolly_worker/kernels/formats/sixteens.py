"""One row times one token for the formats of 32 weights: sixteen quant blocks at a time.

    part[i % 16] += d[i] * dx[i] * (integer sum of block i)

The row's product is part 0 + part 1 + ... + part 15, in that order; `one_token.py` adds them up.

Two neighbouring blocks fill a vector of 64 bytes; eight of those are added up together, so that every block's sum is a
lane, and the scales' float steps are done for all sixteen at once. Where less than sixteen blocks are left, pairs that
are missing are zeros, a last block without a neighbour is added by itself, and lanes of no block stay as they are.
"""

import numpy as np

from woolly_worker.kernels.activations import Q8_BYTES, Q8_RUN, Q8_SCALES, Q8_SUMS
from woolly_worker.kernels.formats.ahead import ask_ahead
from woolly_worker.kernels.formats.legacy import BLOCK, ONE_128TH, RUNS
from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import (
    first_lanes,
    fma,
    load_f32x16,
    load_i32,
    load_i32x16,
    mul,
    shift_right_signed,
    splat_f32x16,
    splat_i32x16,
    sub,
    sums_of_eight,
    to_f32,
    with_lane,
    zero_f32x16,
    zero_i32x16,
)


@inline
def _pair_if(is_there, row, x, pair):
    if is_there:
        ask_ahead(row)
        return pair(row, x)
    return zero_i32x16()


@inline
def _sums(row, record, block_bytes, n, pair):
    """q . x of n blocks as f32 lanes; an odd last one is left out."""
    return sums_of_eight(
        _pair_if(n > 1, row, record, pair),
        _pair_if(n > 3, row + 2 * block_bytes, record + 64, pair),
        _pair_if(n > 5, row + 4 * block_bytes, record + 128, pair),
        _pair_if(n > 7, row + 6 * block_bytes, record + 192, pair),
        _pair_if(n > 9, row + 8 * block_bytes, record + 256, pair),
        _pair_if(n > 11, row + 10 * block_bytes, record + 320, pair),
        _pair_if(n > 13, row + 12 * block_bytes, record + 384, pair),
        _pair_if(n > 15, row + 14 * block_bytes, record + 448, pair),
    )


@inline
def _add(acc, block, record, block_bytes, offset, n, pair, single, scales):
    """The next n blocks, n <= 16, each into its own lane."""
    of_offset = mul(shift_right_signed(load_i32x16(record + Q8_SUMS), 7), splat_i32x16(np.int32(offset)))
    s = to_f32(sub(_sums(block, record, block_bytes, n, pair), of_offset))
    if n % 2:
        last = n - 1
        exact = single(block + last * block_bytes, record + Q8_RUN * last)
        exact -= np.int32(offset) * (load_i32(record + Q8_SUMS + 4 * last) >> 7)
        s = with_lane(s, last, np.float32(exact))
    return fma(mul(scales(block, n), load_f32x16(record + Q8_SCALES)), s, acc)


@inline
def parts_in_sixteens(row, x, n_cols, block_bytes, offset, pair, single, scales):
    """Weights d * (q - offset). Returns the parts, f32x16.

    pair(block, x) -> i32x16      q . x of two neighbouring blocks: eight lanes of partial sums each
    single(block, x) -> i32       q . x of one block
    scales(block, n) -> f32x16    d of n blocks, in the first n lanes
    """
    acc = zero_f32x16()
    n_blocks = n_cols // BLOCK
    whole = n_blocks - n_blocks % RUNS
    for i in range(0, whole, RUNS):
        record = x + i // RUNS * Q8_BYTES
        acc = _add(acc, row + i * block_bytes, record, block_bytes, offset, RUNS, pair, single, scales)
    n = n_blocks - whole
    if n:
        block, record = row + whole * block_bytes, x + whole // RUNS * Q8_BYTES
        new = _add(acc, block, record, block_bytes, offset, n, pair, single, scales)
        acc = first_lanes(n, new, acc)
    return acc


@inline
def _add_mins(acc, block, record, n, scales):
    m = mul(scales(block + 2, n), splat_f32x16(ONE_128TH))
    return fma(mul(m, load_f32x16(record + Q8_SCALES)), to_f32(load_i32x16(record + Q8_SUMS)), acc)


@inline
def parts_in_sixteens_with_mins(row, x, n_cols, block_bytes, pair, single, scales):
    """Weights d * q + m; m is the f16 behind d. Returns the parts, f32x16."""
    acc = zero_f32x16()
    n_blocks = n_cols // BLOCK
    whole = n_blocks - n_blocks % RUNS
    for i in range(0, whole, RUNS):
        block, record = row + i * block_bytes, x + i // RUNS * Q8_BYTES
        acc = _add(acc, block, record, block_bytes, 0, RUNS, pair, single, scales)
        acc = _add_mins(acc, block, record, RUNS, scales)
    n = n_blocks - whole
    if n:
        block, record = row + whole * block_bytes, x + whole // RUNS * Q8_BYTES
        new = _add(acc, block, record, block_bytes, 0, n, pair, single, scales)
        acc = first_lanes(n, _add_mins(new, block, record, n, scales), acc)
    return acc
