"""Writes a step's program: the list of operations that `kernels/team.py` walks, with an argument record for each.

This is done once, at load. The records hold addresses into weights, activations and the KV cache, so whoever runs the
program keeps those alive.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels import attention, experts, matmul, rmsnorm, rope, swiglu
from woolly_worker.kernels.activations import Activation, row_bytes
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import LazyOp
from woolly_worker.kernels.step import (
    BLOCK_TABLES,
    BLOCKS_PER_SLOT,
    LOGIT_ROWS,
    N_LOGIT_ROWS,
    N_TOKENS,
    POSITIONS,
    SLOTS,
    TOKEN_IDS,
)
from woolly_worker.kernels.team import OP_ARGS, OP_BARRIER, OP_FUNCTION, OP_WORDS
from woolly_worker.memory.activations import Buffer, Rows, scratch_of_members
from woolly_worker.memory.kv_cache import KVCache
from woolly_worker.model.batch import StepBatch
from woolly_worker.model.weights import Matrix

LEAST_TAKE_BYTES = 1 << 13  # weights a thread takes at once at the least: below, the counter costs as much

_KV_OPS = {
    "f16": (rope.rope_and_file_f16, attention.attention_f16),
    "f32": (rope.rope_and_file_f32, attention.attention_f32),
    "q8_0": (rope.rope_and_file_q8_0, attention.attention_q8_0),
    "q4_0": (rope.rope_and_file_q4_0, attention.attention_q4_0),
}


def form_for(matrix: Matrix) -> Activation:
    """The form of activations that a matrix reads."""
    return FORMATS[matrix.type.name].activation


def rows_for(n_rows: int, n: int, *readers: Matrix) -> Rows:
    """An activation of width n with the forms that its readers ask for."""
    forms = {form_for(reader) for reader in readers} - {Activation.F32}
    return Rows(n_rows, n, {int(form): row_bytes(form, n) for form in forms})


class Calls(NamedTuple):
    """What `apart` hands to its calls: the address of the first one's step record, and of its counter."""

    steps: int
    counters: int


class Program:
    """Operations in order; `array()` is what a team runs. Every method appends one operation.

    `barrier=False` lets the next operation start while this one still runs: only where it does not read the result.
    """

    def __init__(self, n_members: int, kv: KVCache, *, n_head: int, head_dim: int, n_ctx: int) -> None:
        self.n_members = n_members
        self.kv = kv
        self.n_head, self.head_dim = n_head, head_dim
        self.n_matmuls = 0
        self._ops: list[tuple[LazyOp, npt.NDArray[np.int64], bool]] = []
        self._kept: list[object] = []  # arrays whose addresses stand in records, and their owners
        self._matmul_scratch_bytes = 0
        self._matmul_records: list[npt.NDArray[np.int64]] = []
        self._called: list[tuple[LazyOp, npt.NDArray[np.int64]]] = []  # what `apart` runs, and the record that says so
        padded = kv.layout.head_dim
        self._attention_scratch = scratch_of_members(n_members, attention.scratch_bytes(padded))
        self._max_pieces = -(-n_ctx // attention.PIECE_TOKENS)
        self._pieces = Buffer(1, attention.pieces_bytes(n_head, padded, self._max_pieces))
        self._finished = Buffer(1, 8 * attention.SPLIT_TOKENS * n_head)
        self._scale = self._keep(np.array([1 / np.sqrt(head_dim)], np.float32))

    def keep(self, owner: object) -> None:
        """Whose memory stands in records: alive for as long as the program."""
        self._kept.append(owner)

    def _keep(self, array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def append(self, op: LazyOp, n_fields: int, fields: dict[int, int], barrier: bool = True) -> npt.NDArray[np.int64]:
        """Any operation, with its record."""
        record = np.zeros(n_fields, np.int64)
        for index, value in fields.items():
            record[index] = value
        self._ops.append((op, record, barrier))
        return record

    def embed(self, table: Matrix, into: Rows) -> None:
        """into[t] = the row of token t."""
        fields = {
            matmul.WEIGHTS: table.address,
            matmul.ROW_BYTES: table.row_bytes,
            matmul.EMBED_OUT: into.values.address,
            matmul.EMBED_OUT_STRIDE: into.values.stride,
            matmul.EMBED_N_COLS: table.n_cols,
        }
        self.append(FORMATS[table.type.name].embed, matmul.EMBED_FIELDS, fields)

    def norm(self, x: Rows, weight: npt.NDArray[np.float32], eps: float, into: Rows, *, gather: bool = False) -> None:
        """into = rmsnorm(x) * weight; with `gather`, only of the tokens whose logits are wanted."""
        padded = np.zeros(into.values.stride // 4, np.float32)
        padded[: len(weight)] = weight
        fields = {
            rmsnorm.X: x.values.address,
            rmsnorm.X_STRIDE: x.values.stride,
            rmsnorm.WEIGHT: self._keep(padded),
            rmsnorm.N: x.n,
            rmsnorm.EPS: self._keep(np.array([eps], np.float32)),
            rmsnorm.OUT_F32: into.values.address,
            rmsnorm.OUT_F32_STRIDE: into.values.stride,
            rmsnorm.COUNT_FIELD: N_LOGIT_ROWS if gather else N_TOKENS,
            rmsnorm.GATHER: int(gather),
            rmsnorm.FORMS: sum(into.forms),
            **_form_fields(into, rmsnorm.OUT_Q8K),
        }
        self.append(rmsnorm.norm, rmsnorm.NORM_FIELDS, fields)

    def matmul(
        self, w: Matrix, x: Rows, into: Rows, *, add: bool = False, logit_rows: bool = False, barrier: bool = True
    ) -> None:
        """into = W x for every token, or into += W x."""
        fields = self._matmul_fields(w, x, into, x.n_rows)
        fields |= {matmul.ADD_TO_OUT: int(add), matmul.COUNT_FIELD: N_LOGIT_ROWS if logit_rows else N_TOKENS}
        record = self.append(FORMATS[w.type.name].matmul, matmul.MATMUL_FIELDS, fields, barrier)
        self._matmul_records.append(record)

    def _matmul_fields(self, w: Matrix, x: Rows, into: Rows, most_tokens: int) -> dict[int, int]:
        format_ = FORMATS[w.type.name]
        self._matmul_scratch_bytes = max(self._matmul_scratch_bytes, format_.scratch_bytes(w.n_cols, most_tokens))
        source = x.values if format_.activation == Activation.F32 else x.forms[int(format_.activation)]
        return {
            matmul.WEIGHTS: w.address,
            matmul.ROW_BYTES: w.row_bytes,
            matmul.N_ROWS: w.n_rows,
            matmul.N_COLS: w.n_cols,
            matmul.X: source.address,
            matmul.X_STRIDE: source.stride,
            matmul.OUT: into.values.address,
            matmul.OUT_STRIDE: into.values.stride,
            matmul.LEAST_TAKE: -(-LEAST_TAKE_BYTES // (w.row_bytes * matmul.PANEL_ROWS)) * matmul.PANEL_ROWS,
            matmul.SHARE: 2 * self.n_members,
            matmul.COUNT_FIELD: N_TOKENS,
        }

    def matmul_apart(
        self,
        w: Matrix,
        x: Rows,
        into: Rows,
        records: npt.NDArray[np.int64],
        calls: Calls,
        *,
        most_tokens: int,
        barrier: bool = True,
    ) -> None:
        """One product for each of w's experts, on its own step's rows of x and into: `most_tokens` of them at the most.
        Writes w's matmul records, (n_experts, MATMUL_FIELDS) int64."""
        for number, record in enumerate(records):
            for index, value in self._matmul_fields(w.expert(number), x, into, most_tokens).items():
                record[index] = value
            self._matmul_records.append(record)
        self.apart(FORMATS[w.type.name].matmul, records, calls, barrier=barrier)

    def swiglu_apart(self, gate: Rows, up: Rows, calls: Calls) -> None:
        """As `swiglu`, on the step of `calls`."""
        record = np.zeros((1, swiglu.SWIGLU_FIELDS), np.int64)
        for index, value in _swiglu_fields(gate, up).items():
            record[0, index] = value
        self.apart(swiglu.swiglu, record, calls)

    def apart(self, op: LazyOp, records: npt.NDArray[np.int64], calls: Calls, *, barrier: bool = True) -> None:
        """One call of `op` for each of its records, which are (n, fields) int64."""
        fields = {
            experts.N_CALLS: len(records),
            experts.RECORDS: self._keep(records),
            experts.RECORD_BYTES: records.strides[0],
            experts.CALL_STEPS: calls.steps,
            experts.CALL_COUNTERS: calls.counters,
        }
        self._called.append((op, self.append(experts.apart, experts.APART_FIELDS, fields, barrier)))

    def rope_and_file(self, q: Rows, k: Rows, v: Rows, table: npt.NDArray[np.float32], layer: int) -> None:
        """Turn queries and keys by their positions; put keys and values into the KV blocks."""
        layout = self.kv.layout
        fields = {
            rope.Q: q.values.address,
            rope.Q_STRIDE: q.values.stride,
            rope.K: k.values.address,
            rope.V: v.values.address,
            rope.KV_STRIDE: k.values.stride,
            rope.N_HEAD: self.n_head,
            rope.N_HEAD_KV: layout.n_head_kv,
            rope.HEAD_DIM: self.head_dim,
            rope.TABLE: int(table.ctypes.data),
            rope.KV_BASE: self._layer_base(layer),
            rope.HEAD_BLOCK_BYTES: layout.head_block_bytes,
            rope.PADDED_DIM: layout.head_dim,
        }
        self._kept.append(table)
        self.append(_KV_OPS[layout.dtype][0], rope.ROPE_FIELDS, fields)

    def attention(self, q: Rows, into: Rows, layer: int) -> None:
        layout = self.kv.layout
        fields = {
            attention.Q: q.values.address,
            attention.Q_STRIDE: q.values.stride,
            attention.OUT: into.values.address,
            attention.OUT_STRIDE: into.values.stride,
            attention.N_HEAD: self.n_head,
            attention.N_HEAD_KV: layout.n_head_kv,
            attention.HEAD_DIM: self.head_dim,
            attention.PADDED_DIM: layout.head_dim,
            attention.KV_BASE: self._layer_base(layer),
            attention.HEAD_BLOCK_BYTES: layout.head_block_bytes,
            attention.SCALE: self._scale,
            attention.SCRATCH: self._attention_scratch.address,
            attention.SCRATCH_STRIDE: self._attention_scratch.stride,
            attention.PIECES: self._pieces.address,
            attention.MAX_PIECES: self._max_pieces,
            attention.FINISHED: self._finished.address,
            attention.N_MEMBERS: self.n_members,
        }
        self.append(_KV_OPS[layout.dtype][1], attention.ATTENTION_FIELDS, fields)

    def quantize(self, rows: Rows) -> None:
        """Write the forms that the next matrices read; nothing to do where they read f32."""
        if rows.forms:
            self.append(swiglu.quantize, swiglu.SWIGLU_FIELDS, _swiglu_fields(rows, rows))

    def swiglu(self, gate: Rows, up: Rows) -> None:
        """gate = silu(gate) * up, and its forms."""
        self.append(swiglu.swiglu, swiglu.SWIGLU_FIELDS, _swiglu_fields(gate, up))

    def _layer_base(self, layer: int) -> int:
        layout = self.kv.layout
        return self.kv.base + layer * self.kv.n_blocks * layout.n_head_kv * layout.head_block_bytes

    def operations(self) -> list[LazyOp]:
        """The different operations, in order of first use: what has to be compiled."""
        return list(dict.fromkeys((*(op for op, _, _ in self._ops), *(op for op, _ in self._called))))

    def array(self) -> npt.NDArray[np.int64]:
        """The finished program. Compiles what is not compiled yet."""
        scratch = scratch_of_members(self.n_members, self._matmul_scratch_bytes)
        self._kept.append(scratch)
        for record in self._matmul_records:
            record[matmul.SCRATCH], record[matmul.SCRATCH_STRIDE] = scratch.address, scratch.stride
        for op, record in self._called:
            record[experts.FUNCTION] = op.address
        program = np.zeros((len(self._ops), OP_WORDS), np.int64)
        for row, (op, record, barrier) in zip(program, self._ops, strict=True):
            row[OP_FUNCTION], row[OP_ARGS], row[OP_BARRIER] = op.address, record.ctypes.data, int(barrier)
        return program


def bind_batch(step: npt.NDArray[np.int64], batch: StepBatch) -> None:
    """Put the addresses of the batch's arrays into a step record."""
    step[TOKEN_IDS], step[POSITIONS] = batch.token_ids.ctypes.data, batch.positions.ctypes.data
    step[SLOTS], step[LOGIT_ROWS] = batch.slots.ctypes.data, batch.logit_rows.ctypes.data
    step[BLOCK_TABLES], step[BLOCKS_PER_SLOT] = batch.block_tables.ctypes.data, batch.block_tables.shape[1]


def _form_fields(rows: Rows, first: int) -> dict[int, int]:
    """Address and stride of the Q8K form, then of the Q8 form, from field `first` on."""
    fields = {}
    for offset, form in ((0, Activation.Q8K), (2, Activation.Q8)):
        if int(form) in rows.forms:
            buffer = rows.forms[int(form)]
            fields[first + offset], fields[first + offset + 1] = buffer.address, buffer.stride
    return fields


def _swiglu_fields(gate: Rows, up: Rows) -> dict[int, int]:
    return {
        swiglu.GATE: gate.values.address,
        swiglu.UP: up.values.address,
        swiglu.STRIDE: gate.values.stride,
        swiglu.N: gate.n,
        swiglu.FORMS: sum(gate.forms),
        **_form_fields(gate, swiglu.OUT_Q8K),
    }
