"""The same operations as they are written down first: plain loops, one thread, a new array for every result, and each
row of weights dequantised again whenever it is read. What all the others are measured against.

No SIMD verbs here, and nothing is reordered: what LLVM makes of plain loops is what Numba gives for free. Dequantising
is the formats' own embedding operation, called for one row.

All arrays are C-contiguous; floats are f32. `exp` is the C library's, so its last bit may differ between machines.
"""

import math

import numpy as np

from woolly_worker.kernels.activations import LANES
from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.matmul import EMBED_OUT
from woolly_worker.kernels.simd import call_op

BLOCK_TOKENS = 32  # as memory/kv_cache.py has it; a test compares


@kernel
def dequantized_row(embed, record, step, ids, counter, r, n_cols):
    """Row r of a matrix as a new array of n_cols floats, padded to whole vectors.

    embed            address of the format's embedding operation
    record           (EMBED_FIELDS,) i64: its argument record; where its result goes is filled in here
    step, ids, counter   (STEP_FIELDS,) i64, (1,) i32, (1,) i64: a step of one token, which is the row's number
    """
    row = np.empty((n_cols + LANES - 1) // LANES * LANES, np.float32)
    record[EMBED_OUT] = row.ctypes.data
    ids[0] = r
    counter[0] = 0
    call_op(embed, record.ctypes.data, step.ctypes.data, 0, counter.ctypes.data)
    return row


@kernel
def matmul(embed, record, step, ids, counter, n_rows, x):
    """x (n_tokens, n_cols) -> (n_tokens, n_rows): the triple loop."""
    n_tokens, n_cols = x.shape
    out = np.empty((n_tokens, n_rows), np.float32)
    for t in range(n_tokens):
        for r in range(n_rows):
            row = dequantized_row(embed, record, step, ids, counter, r, n_cols)
            total = np.float32(0)
            for k in range(n_cols):
                total += row[k] * x[t, k]
            out[t, r] = total
    return out


@kernel
def embedding(embed, record, step, ids, counter, token_ids, n_cols):
    """(n_tokens, n_cols): the rows of the tokens."""
    out = np.empty((len(token_ids), n_cols), np.float32)
    for t in range(len(token_ids)):
        row = dequantized_row(embed, record, step, ids, counter, token_ids[t], n_cols)
        for k in range(n_cols):
            out[t, k] = row[k]
    return out


@kernel
def rmsnorm(x, weight, eps):
    """x (n_tokens, n): x * weight / sqrt(mean(x**2) + eps)."""
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        squares = np.float32(0)
        for k in range(x.shape[1]):
            squares += x[t, k] * x[t, k]
        root = np.float32(math.sqrt(squares / np.float32(x.shape[1]) + eps))
        for k in range(x.shape[1]):
            out[t, k] = x[t, k] / root * weight[k]
    return out


@kernel
def rope(x, positions, table):
    """x (n_tokens, n_head, head_dim): neighbours (2 i, 2 i + 1) turned by table[position, i] = (cos, sin)."""
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(x.shape[2] // 2):
                cosine, sine = table[positions[t], i, 0], table[positions[t], i, 1]
                a, b = x[t, h, 2 * i], x[t, h, 2 * i + 1]
                out[t, h, 2 * i] = a * cosine - b * sine
                out[t, h, 2 * i + 1] = a * sine + b * cosine
    return out


@kernel
def attention(q, keys, values, positions, slots, block_tables):
    """q (n_tokens, n_head, head_dim) over the positions of each token's sequence, up to its own.

    keys, values   (n_blocks * BLOCK_TOKENS, n_head_kv, head_dim): one layer
    block_tables   (n_slots, blocks_per_slot) i32: which block has positions 32 i .. 32 i + 31
    """
    n_tokens, n_head, head_dim = q.shape
    group = n_head // keys.shape[1]
    scale = np.float32(1 / math.sqrt(head_dim))
    out = np.zeros_like(q)
    for t in range(n_tokens):
        n_context = positions[t] + 1
        for h in range(n_head):
            scores = np.empty(n_context, np.float32)
            largest = np.float32(-np.inf)
            for p in range(n_context):
                place = block_tables[slots[t], p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS
                total = np.float32(0)
                for k in range(head_dim):
                    total += q[t, h, k] * keys[place, h // group, k]
                scores[p] = total * scale
                largest = max(largest, scores[p])
            total = np.float32(0)
            for p in range(n_context):
                scores[p] = np.float32(math.exp(scores[p] - largest))
                total += scores[p]
            for p in range(n_context):
                place = block_tables[slots[t], p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS
                for k in range(head_dim):
                    out[t, h, k] += scores[p] / total * values[place, h // group, k]
    return out


@kernel
def swiglu(gate, up):
    """silu(gate) * up, both (n_tokens, n_ff)."""
    out = np.empty_like(gate)
    for t in range(gate.shape[0]):
        for k in range(gate.shape[1]):
            out[t, k] = gate[t, k] / (np.float32(1) + np.float32(math.exp(-gate[t, k]))) * up[t, k]
    return out


@kernel
def add(x, y):
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        for k in range(x.shape[1]):
            out[t, k] = x[t, k] + y[t, k]
    return out
