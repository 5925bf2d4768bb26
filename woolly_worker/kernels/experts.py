"""Mixture of experts: who computes which token, and the sum of what they say.

    out[t] += sum over the chosen experts e, best first, of weight[t, e] * network_e(h[t])

A *pair* is a token and one of its experts. Pairs are sorted by expert, so each expert's networks see their tokens as
consecutive rows, like any other matrix does; which row a pair has says nothing about its bits.

    route     chooses experts, sorts the pairs, and addresses each expert's operations to its own rows
    gather    copies the tokens' activations into the rows of their pairs
    apart     runs an operation once for every expert that has tokens
    combine   adds a token's results up, in the order of its choices

Nothing here knows what the experts compute, or the types of their matrices.

Source: Jiang et al. 2024 (Mixtral), section 2.1. Of equal logits the expert with the lower number wins.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.exponential import exp
from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.matmul import MATMUL_FIELDS, OUT, OUT_STRIDE, X_STRIDE, X
from woolly_worker.kernels.simd import (
    add,
    call_op,
    fetch_add,
    first_lane,
    fma,
    load_f32,
    load_f32x16,
    load_i8x64,
    mul,
    splat_f32x16,
    store,
    store_f32,
    store_i32,
    store_i64,
)
from woolly_worker.kernels.step import N_TOKENS, STEP_FIELDS, entry, field
from woolly_worker.kernels.team import LINE

# The routing: arrays that all operations of this file share. Their addresses stand in each one's record.
EXPERT_STEPS = 0  # i64[n_expert + 1, STEP_FIELDS]: a step of every expert's tokens, and then one of all pairs
CHOICES = 1  # i32[n_tokens, n_used]: experts, best first
SHARES = 2  # f32[n_tokens, n_used]: what they weigh; the sum is 1
PAIR_ROWS = 3  # i32[n_tokens, n_used]: rows of the pairs
N_USED = 4  # experts of a token
ROUTING_FIELDS = 5

LOGITS = 5  # address of token 0's row, f32[n_expert]
LOGITS_STRIDE = 6
N_EXPERT = 7
NEXT_ROWS = 8  # i64[n_expert]: while pairs are sorted, the row of each expert's next
TABLES = 9  # matmul records [n_tables, n_expert, MATMUL_FIELDS]: those that read or write rows of pairs
N_TABLES = 10
COUNTERS = 11  # of all that `apart` runs in this layer, a cache line each
N_COUNTERS = 12
ROUTE_FIELDS = 13


Doubles = npt.NDArray[np.float64]


def route_reference(logits: Doubles, n_used: int) -> tuple[npt.NDArray[np.int64], Doubles]:
    """The definition: (n_tokens, n_expert) -> choices and shares, both (n_tokens, n_used). Softmax over all experts,
    the best of them, made to sum up to 1 again."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    choices = np.argsort(-e, axis=1, kind="stable")[:, :n_used]
    best = np.take_along_axis(e / e.sum(axis=1, keepdims=True), choices, axis=1)
    return choices, best / best.sum(axis=1, keepdims=True)


@inline
def _is_chosen(choices, n, expert):
    found = False
    for k in range(n):
        found |= entry(choices, k) == expert
    return found


@inline
def _choose(logits, n_expert, n_used, choices):
    """A logit that is not a number wins over none, so every choice is an expert, and all are different."""
    for k in range(n_used):
        best = -1
        for e in range(n_expert):
            if _is_chosen(choices, k, e):
                continue
            if best < 0 or load_f32(logits + 4 * e) > load_f32(logits + 4 * best):
                best = e
        store_i32(choices + 4 * k, np.int32(best))


@inline
def _weigh(logits, n_used, choices, shares):
    """The softmax over the chosen logits, which is that over all of them made to sum up to 1: the total cancels."""
    most = load_f32(logits + 4 * entry(choices, 0))
    total = np.float32(0)
    for k in range(n_used):
        share = first_lane(exp(splat_f32x16(load_f32(logits + 4 * entry(choices, k)) - most)))
        store_f32(shares + 4 * k, share)
        total += share
    for k in range(n_used):
        store_f32(shares + 4 * k, load_f32(shares + 4 * k) / total)


@inline
def _address_rows(args, expert, row):
    """Let this expert's matmuls read and write from a row of the pairs on. Expert 0 always begins with row 0, so its
    records hold the addresses of the buffers."""
    for table in range(field(args, N_TABLES)):
        first = field(args, TABLES) + 8 * MATMUL_FIELDS * table * field(args, N_EXPERT)
        record = first + 8 * MATMUL_FIELDS * expert
        store_i64(record + 8 * X, field(first, X) + row * field(first, X_STRIDE))
        store_i64(record + 8 * OUT, field(first, OUT) + row * field(first, OUT_STRIDE))


@op
def route(args, step, member, counter):
    """All tokens by one member: it is little, and the pairs have to be sorted after that."""
    if fetch_add(counter, 1) > 0:
        return
    n_tokens, n_expert, n_used = field(step, N_TOKENS), field(args, N_EXPERT), field(args, N_USED)
    steps, next_rows = field(args, EXPERT_STEPS), field(args, NEXT_ROWS)
    for e in range(n_expert):
        store_i64(next_rows + 8 * e, 0)
    for t in range(n_tokens):
        logits, pairs = field(args, LOGITS) + t * field(args, LOGITS_STRIDE), 4 * n_used * t
        choices = field(args, CHOICES) + pairs
        _choose(logits, n_expert, n_used, choices)
        _weigh(logits, n_used, choices, field(args, SHARES) + pairs)
        for k in range(n_used):
            place = next_rows + 8 * entry(choices, k)
            store_i64(place, field(place, 0) + 1)
    row = 0
    for e in range(n_expert):
        n = field(next_rows, e)
        store_i64(steps + 8 * STEP_FIELDS * e + 8 * N_TOKENS, n)
        store_i64(next_rows + 8 * e, row)
        _address_rows(args, e, row)
        row += n
    store_i64(steps + 8 * STEP_FIELDS * n_expert + 8 * N_TOKENS, row)
    for i in range(n_tokens * n_used):
        place = next_rows + 8 * entry(field(args, CHOICES), i)
        store_i32(field(args, PAIR_ROWS) + 4 * i, np.int32(field(place, 0)))
        store_i64(place, field(place, 0) + 1)
    for i in range(field(args, N_COUNTERS)):
        store_i64(field(args, COUNTERS) + LINE * i, 0)


FORMS = 5  # forms, each: address of token 0's row, of pair 0's row, bytes of both (0: nobody reads this form)
N_FORMS, FORM_FIELDS = 2, 3  # gate and up may read one each
GATHER_FIELDS = FORMS + N_FORMS * FORM_FIELDS


@op
def gather(args, step, member, counter):
    """A unit of work is one token. Rows are whole cache lines."""
    n_tokens, n_used = field(step, N_TOKENS), field(args, N_USED)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        for k in range(n_used):
            row = entry(field(args, PAIR_ROWS), t * n_used + k)
            for i in range(N_FORMS):
                form = args + 8 * (FORMS + FORM_FIELDS * i)
                n_bytes = field(form, 2)
                source, out = field(form, 0) + t * n_bytes, field(form, 1) + row * n_bytes
                for line in range(0, n_bytes, LINE):
                    store(out + line, load_i8x64(source + line))


FUNCTION = 0  # address of the operation that is run
N_CALLS = 1
RECORDS = 2  # address of its first record
RECORD_BYTES = 3  # from one record to the next
CALL_STEPS = 4  # address of the first call's step record
CALL_COUNTERS = 5  # address of the first call's counter
APART_FIELDS = 6


@op
def apart(args, step, member, counter):
    """One operation as several, each with a record, a step and a counter of its own. The members share every one.

    A call without tokens is left out. Members begin with different calls: alone with an expert, one reads its rows in
    longer runs.
    """
    n_calls = field(args, N_CALLS)
    for i in range(n_calls):
        call = (i + member) % n_calls
        own_step = field(args, CALL_STEPS) + 8 * STEP_FIELDS * call
        if field(own_step, N_TOKENS) > 0:
            record = field(args, RECORDS) + field(args, RECORD_BYTES) * call
            call_op(field(args, FUNCTION), record, own_step, member, field(args, CALL_COUNTERS) + LINE * call)


RESULTS = 5  # address of pair 0's row, f32
INTO = 6  # address of token 0's row, f32
STRIDE = 7  # of both
N = 8  # n_embd
COMBINE_FIELDS = 9


@op
def combine(args, step, member, counter):
    """into[t] += the results of t's pairs, weighted. A unit of work is one token."""
    n_tokens, n_used, stride = field(step, N_TOKENS), field(args, N_USED), field(args, STRIDE)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        rows, shares = field(args, PAIR_ROWS) + 4 * n_used * t, field(args, SHARES) + 4 * n_used * t
        into, results = field(args, INTO) + t * stride, field(args, RESULTS)
        for i in range(0, 4 * field(args, N), LINE):
            total = mul(splat_f32x16(load_f32(shares)), load_f32x16(results + entry(rows, 0) * stride + i))
            for k in range(1, n_used):
                result = load_f32x16(results + entry(rows, k) * stride + i)
                total = fma(splat_f32x16(load_f32(shares + 4 * k)), result, total)
            store(into + i, add(load_f32x16(into + i), total))
