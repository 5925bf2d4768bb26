"""Before anything is served: every operation of a model's program, run on a few blocks and held against its definition.

A damaged kernel cache, a compiler that errs, a CPU that miscalculates or lacks what it claims: each of them would write
text, only not the model's. This takes some hundredths of a second, always, and cannot be switched off.

Small programs are written with the same `Program` as the model's own, over made-up weights of the same types. It checks
operations, not the order in which a model strings them together.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import KernelMismatch
from woolly_worker.gguf.types import GGMLType
from woolly_worker.kernels.activations import (
    Q8_BYTES,
    Q8_RUN,
    Q8_SCALES,
    Q8_SUMS,
    Q8_VALUES,
    Q8K_BYTES,
    Q8K_SCALE,
    Q8K_SUM,
    Q8K_SUMS16,
    Q8K_SUMS32,
    Q8K_VALUES,
    Activation,
)
from woolly_worker.kernels.attention import attention_reference
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.experts import route_reference
from woolly_worker.kernels.exponential import silu_reference
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import CACHE_DIR
from woolly_worker.kernels.matmul import FEW_TOKENS
from woolly_worker.kernels.quantize import quantize_reference
from woolly_worker.kernels.rmsnorm import rmsnorm_reference
from woolly_worker.kernels.rope import rope_table
from woolly_worker.kernels.step import N_LOGIT_ROWS, N_TOKENS
from woolly_worker.kernels.team import Team
from woolly_worker.memory.activations import Rows
from woolly_worker.memory.kv_cache import KVCache, KVLayout
from woolly_worker.model.batch import StepBatch
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.networks import Mixture
from woolly_worker.model.program import Program, bind_batch, rows_for
from woolly_worker.model.sample_blocks import Sample, sample
from woolly_worker.model.weights import LayerWeights, Matrix, Weights

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

TOKENS = 15  # tiles of all sizes
MANY_TOKENS = FEW_TOKENS + 7  # the other way of multiplying, and a last tile that is not whole
POSITIONS = 40  # a whole KV block and a part of the next
EPS = 1e-5

# How far attention's results may lie from the definition, in parts of the largest value: keys and values are rounded.
# Of a type that is not named here, 8 bits are expected.
_ATTENTION_TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
_ATTENTION_TOLERANCE_8_BITS = 5e-2


def check_operations(config: ModelConfig, weights: Weights, layout: KVLayout) -> None:
    """Raises KernelMismatch, which names the operation, if one of those that this model needs computes wrong results.

    Operations that the model's program has loaded are not loaded again, so this comes after it.
    """
    rng = np.random.default_rng(1)
    matrices = [weights.token_embd, weights.output, *(m for layer in weights.layers for m in layer.matrices())]
    samples = {kind: sample(kind, rng) for kind in dict.fromkeys(matrix.type for matrix in matrices)}
    trial = _Trial(config, layout)
    trial.embedding(samples[weights.token_embd.type])
    read = dict.fromkeys(matrix.type for matrix in matrices[1:])
    for kind in read:
        trial.product(samples[kind], rng)
    readers = [samples[kind].matrix for kind in read]
    trial.quantize(readers, rng)
    trial.norm(readers, rng)
    trial.swiglu(readers, rng)
    trial.attention(rng)
    if config.n_expert:
        trial.mixture(weights.layers[0], rng)


class _Trial:
    """Runs short programs. Every method is one check."""

    def __init__(self, config: ModelConfig, layout: KVLayout) -> None:
        self._n_head, self._n_head_kv, self._head_dim = config.n_head, config.n_head_kv, config.head_dim
        self._kv = KVCache(replace(layout, n_layer=1), 3)
        self._batch = StepBatch(
            max_step_tokens=max(POSITIONS, MANY_TOKENS), max_logit_rows=TOKENS, max_slots=1, max_blocks_per_slot=2
        )
        self._batch.block_tables[0] = 2, 1

    def _program(self) -> Program:
        return Program(1, self._kv, n_head=self._n_head, head_dim=self._head_dim, n_ctx=POSITIONS)

    def _run(self, program: Program, n_tokens: int) -> None:
        """One step of tokens 0, 1, .. n_tokens; all of them want their logits where a program asks for it."""
        team = Team(program.array(), 1)
        bind_batch(team.step, self._batch)
        team.step[N_TOKENS], team.step[N_LOGIT_ROWS] = n_tokens, min(n_tokens, TOKENS)
        self._batch.logit_rows[:] = np.arange(TOKENS)
        team.run(alone=True)
        team.close()

    def embedding(self, table: Sample) -> None:
        program, rows = self._program(), Rows(TOKENS, table.matrix.n_cols)
        ids = self._batch.token_ids[:TOKENS] = np.arange(TOKENS)[::-1] + 2
        program.embed(table.matrix, into=rows)
        self._run(program, TOKENS)
        name = FORMATS[table.matrix.type.name].embed.__name__
        _compare(name, rows.array(), table.weights[ids], 1e-6 * np.abs(table.weights).max())

    def product(self, w: Sample, rng: np.random.Generator) -> None:
        """Sixteen rows by panels and two by themselves, for 1, 2, 3, 7, 15 and many tokens: all with the bits of one
        token alone, and those close to the exact product.

        The activations are whole numbers up to 127, times a power of two: what the quantised forms make of them is
        exact, so the bound is that of the sums alone. There are at most two steps for each 16 columns, each rounded a
        few times, and no term is the difference of anything larger than eight times the row's largest weight.
        """
        name, n_cols = FORMATS[w.matrix.type.name].matmul.__name__, w.matrix.n_cols
        x, out = rows_for(MANY_TOKENS, n_cols, w.matrix), Rows(MANY_TOKENS, w.matrix.n_rows)
        whole = rng.integers(-127, 128, (TOKENS, n_cols))
        whole[:, ::32] = 127
        tokens = (whole * 2.0 ** rng.integers(-9, 3, (TOKENS, 1))).astype(np.float32)
        program = self._program()
        program.quantize(x)
        program.matmul(w.matrix, x, into=out)
        one_by_one = np.empty((TOKENS, w.matrix.n_rows), np.float32)
        for t in range(TOKENS):
            x.array()[0] = tokens[t]
            self._run(program, 1)
            one_by_one[t] = out.array()[0]
        which = np.arange(MANY_TOKENS) % TOKENS
        x.array()[:] = tokens[which]
        for n_tokens in (2, 3, 7, TOKENS, MANY_TOKENS):
            out.array()[:] = 0
            self._run(program, n_tokens)
            _compare(name, out.array()[:n_tokens], one_by_one[which[:n_tokens]], 0.0)
        exact = tokens.astype(np.float64) @ w.weights.T.astype(np.float64)
        terms = np.outer(np.abs(tokens.astype(np.float64)).sum(axis=1), 8 * np.abs(w.weights).max(axis=1))
        _compare(name, one_by_one, exact, terms * 2 * (n_cols / 16 + 5) * 2.0**-24)

    def quantize(self, readers: Iterable[Matrix], rng: np.random.Generator) -> None:
        rows = rows_for(TOKENS, _width(readers), *readers)
        if not rows.forms:
            return
        rows.array()[:] = rng.standard_normal((TOKENS, rows.n)) * 10.0 ** rng.integers(-20, 10, (TOKENS, 1))
        program = self._program()
        program.quantize(rows)
        self._run(program, TOKENS)
        _compare_forms("quantize", rows)

    def norm(self, readers: Iterable[Matrix], rng: np.random.Generator) -> None:
        """All tokens, and then the same through `gather`, which picks those whose logits are wanted."""
        for gather in (False, True):
            n = _width(readers)
            x, out = Rows(TOKENS, n), rows_for(TOKENS, n, *readers)
            x.array()[:] = rng.standard_normal((TOKENS, n)) * 10.0 ** rng.integers(-2, 3, (TOKENS, 1))
            weight = rng.uniform(0.5, 2, n).astype(np.float32)
            program = self._program()
            program.norm(x, weight, EPS, into=out, gather=gather)
            self._run(program, TOKENS)
            exact = rmsnorm_reference(x.array().astype(np.float64), weight.astype(np.float64), float(np.float32(EPS)))
            _compare("norm", out.array(), exact, 2e-6 * np.abs(exact) + 1e-30)
            _compare_forms("norm", out)

    def swiglu(self, readers: Iterable[Matrix], rng: np.random.Generator) -> None:
        n = _width(readers)
        gate, up = rows_for(TOKENS, n, *readers), Rows(TOKENS, n)
        gate.array()[:], up.array()[:] = rng.uniform(-20, 20, (TOKENS, n)), rng.standard_normal((TOKENS, n))
        exact = silu_reference(gate.array().astype(np.float64)) * up.array()
        program = self._program()
        program.swiglu(gate, up)
        self._run(program, TOKENS)
        _compare("swiglu", gate.array(), exact, 2e-6 * np.abs(exact) + 1e-30)
        _compare_forms("swiglu", gate)

    def attention(self, rng: np.random.Generator) -> None:
        """A chunk of 39 tokens and one token behind it, with the model's own heads, filed into two KV blocks."""
        n, d = POSITIONS, self._head_dim
        q, k, v = (Rows(n, heads * d) for heads in (self._n_head, self._n_head_kv, self._n_head_kv))
        out = Rows(n, self._n_head * d)
        asked = [rng.standard_normal((n, rows.n)).astype(np.float32) for rows in (q, k, v)]
        table = rope_table(n, d, 10000.0)
        program = self._program()
        program.rope_and_file(q, k, v, table, layer=0)
        program.attention(q, into=out, layer=0)
        found = np.empty((n, q.n), np.float32)
        turned = np.empty((n, q.n), np.float32)
        for first, last in ((0, n - 1), (n - 1, n)):
            for rows, numbers in zip((q, k, v), asked, strict=True):
                rows.array()[: last - first] = numbers[first:last]
            self._batch.positions[: last - first] = np.arange(first, last)
            self._run(program, last - first)
            found[first:last], turned[first:last] = out.array()[: last - first], q.array()[: last - first]
        names = [op.__name__ for op in program.operations()]
        queries, keys = _turned(asked[0], table), _turned(asked[1], table)
        _compare(names[0], turned, queries.reshape(n, -1), 1e-6 * np.abs(queries).max())
        values = asked[2].reshape(n, -1, d).astype(np.float64)
        exact = np.empty((n, self._n_head, d))
        for h in range(self._n_head):
            shared = h // (self._n_head // self._n_head_kv)
            for p in range(n):
                exact[p, h] = attention_reference(queries[p, h], keys[: p + 1, shared], values[: p + 1, shared])
        tolerance = _ATTENTION_TOLERANCE.get(self._kv.layout.dtype, _ATTENTION_TOLERANCE_8_BITS)
        _compare(" or ".join(names), found, exact.reshape(n, -1), tolerance * np.abs(values).max())

    def mixture(self, layer: LayerWeights, rng: np.random.Generator) -> None:
        """Four small experts in F32, two for each token and none for the second. Products were looked at before: this
        is about who computes what, and the weighted sum."""
        n, n_ff, n_expert, n_used = 40, 24, 4, 2
        shapes = {"ffn_router": (n_expert, n), "ffn_gate": (n_ff, n), "ffn_up": (n_ff, n), "ffn_down": (n, n_ff)}
        numbers = {
            name: rng.standard_normal((1 if name == "ffn_router" else n_expert, *shape)).astype(np.float32)
            for name, shape in shapes.items()
        }
        numbers["ffn_router"][:, 1] = 0
        h, out = Rows(TOKENS, n), Rows(TOKENS, n)
        h.array()[:], out.array()[:] = rng.standard_normal((2, TOKENS, n))
        tokens, before = h.array().astype(np.float64), out.array().astype(np.float64)
        logits = tokens @ numbers["ffn_router"][0].T.astype(np.float64)
        matrices: dict[str, Any] = {name: _f32_matrix(name, stack) for name, stack in numbers.items()}
        program, network = self._program(), Mixture([replace(layer, **matrices)], TOKENS, n_used)
        network.write(program, replace(layer, **matrices), h, into=out)
        self._run(program, TOKENS)
        choices, shares = route_reference(logits, n_used)
        _compare("route", network.choices, choices, 0.0)
        _compare("route", network.shares, shares, 1e-5)
        exact = before.copy()
        for t, k in np.ndindex(*choices.shape):
            gate, up, down = (numbers[name][choices[t, k]] for name in ("ffn_gate", "ffn_up", "ffn_down"))
            exact[t] += shares[t, k] * (down @ (silu_reference(gate @ tokens[t]) * (up @ tokens[t])))
        _compare("gather, apart or combine", out.array(), exact, 1e-5 * np.abs(exact).max())


def _f32_matrix(name: str, stack: Floats) -> Matrix:
    """(n, rows, cols) f32 as the matrices of n experts. They lie in `stack`."""
    n, n_rows, n_cols = stack.shape
    return Matrix(name, GGMLType.F32, n_rows, n_cols, int(stack.ctypes.data), 4 * n_cols, stack.nbytes, n)


def _width(readers: Iterable[Matrix]) -> int:
    """A width that every form can have: whole blocks, if there are any blocks."""
    return max(reader.n_cols for reader in readers)


def _turned(rows: Floats, table: Floats) -> Doubles:
    """(n, heads * head_dim) as (n, heads, head_dim), neighbours turned by their position's angles."""
    cosine, sine = (table[: len(rows), None, :, i].astype(np.float64) for i in (0, 1))
    pairs = rows.astype(np.float64).reshape(len(rows), -1, table.shape[1], 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = np.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
    return turned.reshape(len(rows), -1, 2 * table.shape[1])


def _compare_forms(operation: str, rows: Rows) -> None:
    """The quantised forms of what `rows` holds against the definition, all parts of a record, bit for bit."""
    for form, n_record, n_run in ((Activation.Q8K, Q8K_VALUES, Q8K_VALUES), (Activation.Q8, Q8_VALUES, Q8_RUN)):
        if form not in rows.forms:
            continue
        buffer, n_bytes = rows.forms[form], Q8K_BYTES if form == Activation.Q8K else Q8_BYTES
        n_records = -(-rows.n // n_record)
        records = buffer.memory.reshape(rows.n_rows, buffer.stride)[:, : n_records * n_bytes].reshape(-1, n_bytes)
        # Behind the last run of a row a record is filled up with zeros, of which everything is zero.
        numbers = np.zeros((rows.n_rows, n_records * n_record), np.float32)
        numbers[:, : rows.n] = rows.array()
        q, d = quantize_reference(numbers, n_run)
        sums = q.sum(axis=1, dtype=np.int32)
        parts: dict[int, npt.NDArray[Any]] = {0: q}
        if form == Activation.Q8K:
            parts |= {Q8K_SCALE: d, Q8K_SUM: sums}
            for n, place in ((32, Q8K_SUMS32), (16, Q8K_SUMS16)):
                parts[place] = q.reshape(len(q), -1, n).sum(axis=2, dtype=np.int16)
        else:
            parts |= {Q8_SCALES: d, Q8_SUMS: 128 * sums}
        for place, expected in parts.items():
            part = expected.reshape(len(records), -1)
            stored: npt.NDArray[Any] = records[:, place : place + part[0].nbytes].copy().view(part.dtype)
            _compare(operation, stored, part, 0.0)


def _compare(operation: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], bound: Doubles | float) -> None:
    """Both have the shape (rows, columns). What is not a number is never within a bound."""
    wrong = ~(np.abs(found.astype(np.float64) - expected) <= bound)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise KernelMismatch(
            f"the operation {operation}, compiled for {CPU.level}, computes {found[row, column]:.9g} instead of "
            f"{expected[row, column]:.9g}, and {np.count_nonzero(wrong):,} of {wrong.size:,} results are wrong in all. "
            f"Remove the compiled kernels in {CACHE_DIR}, or try WOOLLY_CPU=generic"
        )
