"""Attention over KV blocks: which thread computes what, and in which order a query's result comes about.

    out = sum over p of softmax(q . k[p] / sqrt(head_dim)) v[p],   p = 0 .. the query's own position

Queries that read the same keys are treated together, up to eight: the heads of one KV head's group, and, where a
group is smaller than eight, the tokens of one prefill chunk. A key or value is then loaded once for all of them.

Each query's own operations do not depend on its company. Positions fall into pieces of 512 and rounds of 128, counted
from the sequence's beginning; a round's scores become weights together, and pieces are summed each for itself, then
one after the other. What a query does not see is not read, or weighs exactly zero.

In a step of few tokens the pieces are units of work of their own, so that one long sequence keeps all threads busy;
whoever finishes the last piece of a query merges them, in the same order. Otherwise one thread does all pieces.

Source: Dao et al. 2022 (online softmax), Dao et al. 2023 (Flash-Decoding), Kwon et al. 2023 (paged keys and values).
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.attention_tile import (
    ATTENTION_FIELDS,
    FINISHED,
    HEAD_BLOCK_BYTES,
    HEAD_DIM,
    KV_BASE,
    MAX_PIECES,
    N_HEAD,
    N_HEAD_KV,
    N_MEMBERS,
    OUT,
    OUT_STRIDE,
    PADDED_DIM,
    PIECE_TOKENS,
    PIECES,
    Q_STRIDE,
    SCALE,
    SCRATCH,
    SCRATCH_STRIDE,
    SPLIT_TOKENS,
    Q,
    announce,
    attend,
    lay_out,
    n_pieces,
    pieces_bytes,
    scratch_bytes,
)
from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.kv import floats, quants
from woolly_worker.kernels.kv.blocks import QUERIES
from woolly_worker.kernels.simd import fetch_add
from woolly_worker.kernels.step import N_TOKENS, POSITIONS, SLOTS, entry, field

__all__ = [
    "ATTENTION_FIELDS",
    "FINISHED",
    "HEAD_BLOCK_BYTES",
    "HEAD_DIM",
    "KV_BASE",
    "MAX_PIECES",
    "N_HEAD",
    "N_HEAD_KV",
    "N_MEMBERS",
    "OUT",
    "OUT_STRIDE",
    "PADDED_DIM",
    "PIECES",
    "PIECE_TOKENS",
    "Q_STRIDE",
    "SCALE",
    "SCRATCH",
    "SCRATCH_STRIDE",
    "SPLIT_TOKENS",
    "Q",
    "attention_f16",
    "attention_f32",
    "attention_q4_0",
    "attention_q8_0",
    "attention_reference",
    "pieces_bytes",
    "scratch_bytes",
]

Array = npt.NDArray[np.float64]


def attention_reference(q: Array, keys: Array, values: Array) -> Array:
    """One query (head_dim,) over keys and values (n, head_dim): the definition."""
    scores = keys @ q / np.sqrt(len(q))
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@inline
def _most_pieces(step, n_tokens):
    """Pieces of the longest context of this step."""
    most = 1
    for t in range(n_tokens):
        most = max(most, n_pieces(entry(field(step, POSITIONS), t) + 1))
    return most


@inline
def _parts_of(unit, pieces, head_tiles, n_heads, n_head_kv, tokens):
    """A unit's first token, KV head, first head of the group, and piece."""
    piece, rest = unit % pieces, unit // pieces
    g, rest = rest % head_tiles * n_heads, rest // head_tiles
    return rest // n_head_kv * tokens, rest % n_head_kv, g, piece


@inline
def _run_attention(args, step, member, counter, prepare, score_block, add_values, finish):
    """A unit of work is one tile of neighbouring tokens, one KV head, up to eight heads of its group, and, in a step of
    few tokens, one piece of the positions. The lines of the one that the member will probably take next, after all the
    others, are asked for meanwhile."""
    n_tokens, n_head_kv = field(step, N_TOKENS), field(args, N_HEAD_KV)
    group = field(args, N_HEAD) // n_head_kv
    n_heads = min(group, QUERIES)
    head_tiles = (group + n_heads - 1) // n_heads
    tokens_per_tile = QUERIES // n_heads
    pieces_of_unit = _most_pieces(step, n_tokens) if n_tokens <= SPLIT_TOKENS else 1
    n_units = (n_tokens + tokens_per_tile - 1) // tokens_per_tile * n_head_kv * head_tiles * pieces_of_unit
    work = lay_out(args, member)
    slots, positions = field(step, SLOTS), field(step, POSITIONS)
    while True:
        unit = fetch_add(counter, 1)
        if unit >= n_units:
            return
        upcoming = unit + field(args, N_MEMBERS)
        if upcoming >= n_units:
            upcoming = unit
        t, h, g, piece = _parts_of(upcoming, pieces_of_unit, head_tiles, n_heads, n_head_kv, tokens_per_tile)
        announce(args, step, work, t, h, piece)
        t, h, g, piece = _parts_of(unit, pieces_of_unit, head_tiles, n_heads, n_head_kv, tokens_per_tile)
        end = min(t + tokens_per_tile, n_tokens)
        heads_here = min(n_heads, group - g)
        while t < end:
            # Only tokens of one chunk share keys: same slot, positions one after the other.
            run = 1
            while (
                t + run < end
                and entry(slots, t + run) == entry(slots, t)
                and entry(positions, t + run) == entry(positions, t) + run
            ):
                run += 1
            n_all = n_pieces(entry(positions, t) + run)
            split = pieces_of_unit > 1 and n_all > 1
            if piece == 0 or (split and piece < n_all):
                first_piece = piece if split else 0
                n_mine = 1 if split else n_all
                attend(
                    args,
                    step,
                    work,
                    t,
                    run,
                    h,
                    g,
                    heads_here,
                    first_piece,
                    n_mine,
                    split,
                    prepare,
                    score_block,
                    add_values,
                    finish,
                )
            t += run


@op
def attention_f16(args, step, member, counter):
    _run_attention(
        args, step, member, counter, floats.prepare, floats.score_block_f16, floats.add_values_f16, floats.finish
    )


@op
def attention_f32(args, step, member, counter):
    _run_attention(
        args, step, member, counter, floats.prepare, floats.score_block_f32, floats.add_values_f32, floats.finish
    )


@op
def attention_q8_0(args, step, member, counter):
    _run_attention(
        args, step, member, counter, quants.prepare, quants.score_block_q8_0, quants.add_values_q8_0, quants.finish
    )


@op
def attention_q4_0(args, step, member, counter):
    _run_attention(
        args, step, member, counter, quants.prepare, quants.score_block_q4_0, quants.add_values_q4_0, quants.finish
    )
