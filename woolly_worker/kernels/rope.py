"""Rotary positions: the table of angles, and the operation that turns queries and keys and files keys and values.

    (a, b) -> (a cos - b sin, a sin + b cos),   angle = position * freq_base ** (-2 i / n) / frequency factor

for pairs of neighbours (2 i, 2 i + 1), the order of ggml's `llama` family.

The table is made of single IEEE operations and of exact decimal powers, because the sine of one C library differs
from another's in the last bit, and a token's bits must not depend on the machine.

Source: Su et al. 2021, eq. 34; YaRN: Peng et al. 2023, as in llama.cpp's `rope_yarn`. Accuracy of the table: half a
unit in the last place of f32 plus 1e-12.
"""

import math
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.kv import floats, quant_blocks
from woolly_worker.kernels.kv.blocks import BLOCK_TOKENS
from woolly_worker.kernels.simd import (
    fetch_add,
    flip_even_signs,
    fma,
    fma_scalar,
    load_f32,
    load_f32x16,
    mul,
    spread,
    store,
    store_f32,
)
from woolly_worker.kernels.step import BLOCK_TABLES, BLOCKS_PER_SLOT, N_TOKENS, POSITIONS, SLOTS, entry, field

# Fields of the argument record.
Q = 0  # address of token 0's queries, f32, turned in place
Q_STRIDE = 1
K = 2  # address of token 0's keys
V = 3
KV_STRIDE = 4
N_HEAD = 5
N_HEAD_KV = 6
HEAD_DIM = 7
TABLE = 8  # address of f32[n_ctx, head_dim / 2, 2]: cos, sin
KV_BASE = 9  # address of this layer's KV block 0
HEAD_BLOCK_BYTES = 10
PADDED_DIM = 11  # head_dim as the KV layout has it
ROPE_FIELDS = 12


def inverse_frequencies(freq_base: float, n_dims: int) -> npt.NDArray[np.float64]:
    """freq_base ** (-2 i / n_dims), correctly rounded: decimal arithmetic is the same everywhere."""
    with localcontext() as context:
        context.prec = 40
        base = Decimal(freq_base)
        return np.array([float(base ** (Decimal(-2 * i) / n_dims)) for i in range(n_dims // 2)])


def _sine_and_cosine(angle: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """By Cody-Waite reduction to |r| <= pi / 4 and Taylor polynomials; absolute error below 1e-13 up to 2**20."""
    quarter = np.rint(angle * (2 / math.pi))
    # pi / 2 in three parts; the first two have 33 bits each, so their products with `quarter` are exact.
    r = ((angle - quarter * 1.57079632673412561417) - quarter * 6.07710050630396597660e-11) - (
        quarter * 2.02226624879595063154e-21
    )
    square = r * r
    sine = np.full_like(r, 1 / math.factorial(17))
    cosine = np.full_like(r, 1 / math.factorial(16))
    for n in range(15, 0, -2):
        sine = (1 if n % 4 == 1 else -1) / math.factorial(n) + sine * square
        cosine = (1 if n % 4 == 1 else -1) / math.factorial(n - 1) + cosine * square
    sine = sine * r
    turns = quarter.astype(np.int64) % 4
    sines = np.choose(turns, [sine, cosine, -sine, -cosine])
    cosines = np.choose(turns, [cosine, -sine, -cosine, sine])
    return sines, cosines


def rope_table(
    n_ctx: int,
    n_dims: int,
    freq_base: float,
    *,
    factor: float = 1.0,
    attn_factor: float = 1.0,
    ext_factor: float = 0.0,
    original_context_length: int = 0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    freq_factors: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """(n_ctx, n_dims / 2, 2) f32: cosine and sine for every position and pair.

    factor        positions are divided by it (linear scaling)
    freq_factors  (n_dims / 2,) f32: frequencies are divided by them (Llama 3's long context)
    ext_factor    share of YaRN: fast pairs keep their frequency, slow ones are divided by `factor`
    """
    frequency = inverse_frequencies(freq_base, n_dims)
    if freq_factors is not None:
        frequency = frequency / freq_factors.astype(np.float64)
    scale = attn_factor
    angles = np.arange(n_ctx, dtype=np.float64)[:, None] * frequency
    if ext_factor == 0.0:
        angles = angles / factor
    else:

        def correction(n_rotations: float) -> float:
            span = original_context_length / (n_rotations * 2 * math.pi)
            return n_dims * math.log(span) / (2 * math.log(freq_base))

        low = max(0.0, math.floor(correction(beta_fast)))
        high = min(n_dims - 1.0, math.ceil(correction(beta_slow)))
        ramp = (np.arange(n_dims // 2) - low) / max(0.001, high - low)
        keep = (1 - np.clip(ramp, 0, 1)) * ext_factor
        angles = angles / factor * (1 - keep) + angles * keep
        scale *= 1 + 0.1 * math.log(factor)
    sines, cosines = _sine_and_cosine(angles)
    return np.ascontiguousarray(np.stack([cosines * scale, sines * scale], axis=-1).astype(np.float32))


@inline
def _turn(row, angles, n):
    """One head of n floats, in place."""
    whole = n - n % 16
    for k in range(0, whole, 16):
        x, turn = load_f32x16(row + 4 * k), load_f32x16(angles + 4 * k)
        cosines = spread(turn, "0022446688aaccee")
        sines = flip_even_signs(spread(turn, "1133557799bbddff"))
        store(row + 4 * k, fma(x, cosines, mul(spread(x, "1032547698badcfe"), sines)))
    for k in range(whole, n, 2):
        a, b = load_f32(row + 4 * k), load_f32(row + 4 * k + 4)
        cosine, sine = load_f32(angles + 4 * k), load_f32(angles + 4 * k + 4)
        store_f32(row + 4 * k, fma_scalar(a, cosine, -(b * sine)))
        store_f32(row + 4 * k + 4, fma_scalar(b, cosine, a * sine))


@inline
def _file_token(args, step, t, file_head):
    """Copy token t's turned keys and its values into its KV block."""
    head_dim, padded_dim, n_head_kv = field(args, HEAD_DIM), field(args, PADDED_DIM), field(args, N_HEAD_KV)
    position, slot = entry(field(step, POSITIONS), t), entry(field(step, SLOTS), t)
    table = field(step, BLOCK_TABLES) + 4 * slot * field(step, BLOCKS_PER_SLOT)
    block, inside = entry(table, position // BLOCK_TOKENS), position % BLOCK_TOKENS
    keys, values = field(args, K) + t * field(args, KV_STRIDE), field(args, V) + t * field(args, KV_STRIDE)
    for h in range(n_head_kv):
        head, source = (block * n_head_kv + h) * field(args, HEAD_BLOCK_BYTES), 4 * h * head_dim
        file_head(keys + source, values + source, field(args, KV_BASE) + head, inside, head_dim, padded_dim)


@inline
def _rope_and_file(args, step, counter, file_head):
    n_tokens, head_dim = field(step, N_TOKENS), field(args, HEAD_DIM)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        angles = field(args, TABLE) + 4 * head_dim * entry(field(step, POSITIONS), t)
        queries, keys = field(args, Q) + t * field(args, Q_STRIDE), field(args, K) + t * field(args, KV_STRIDE)
        for h in range(field(args, N_HEAD)):
            _turn(queries + 4 * h * head_dim, angles, head_dim)
        for h in range(field(args, N_HEAD_KV)):
            _turn(keys + 4 * h * head_dim, angles, head_dim)
        _file_token(args, step, t, file_head)


@op
def rope_and_file_f16(args, step, member, counter):
    """Keys and values kept as f16. A unit of work is one token."""
    _rope_and_file(args, step, counter, floats.file_head_f16)


@op
def rope_and_file_f32(args, step, member, counter):
    """Keys and values kept as f32."""
    _rope_and_file(args, step, counter, floats.file_head_f32)


@op
def rope_and_file_q8_0(args, step, member, counter):
    """Keys and values kept as q8_0."""
    _rope_and_file(args, step, counter, quant_blocks.file_head_q8_0)


@op
def rope_and_file_q4_0(args, step, member, counter):
    """Keys and values kept as q4_0."""
    _rope_and_file(args, step, counter, quant_blocks.file_head_q4_0)
