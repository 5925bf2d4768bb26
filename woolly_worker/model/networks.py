"""The feed-forward half of a layer, written into a step's program: one network, or a mixture of experts.

Each class owns the buffers that all layers of a model share. The sum over experts and its order are those of
`kernels/experts.py`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels import experts
from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.matmul import MATMUL_FIELDS
from woolly_worker.kernels.step import STEP_FIELDS
from woolly_worker.kernels.team import LINE
from woolly_worker.memory.activations import Buffer, Rows
from woolly_worker.model.program import Calls, Program, form_for, rows_for
from woolly_worker.model.weights import LayerWeights


class DenseNetwork:
    """into += down(silu(gate h) * up h)."""

    def __init__(self, layers: Sequence[LayerWeights], n_tokens: int) -> None:
        self.gate = rows_for(n_tokens, layers[0].ffn_gate.n_rows, *(layer.ffn_down for layer in layers))
        self.up = rows_for(n_tokens, layers[0].ffn_up.n_rows)

    @property
    def activations(self) -> tuple[Rows, ...]:
        return self.gate, self.up

    def write(self, p: Program, layer: LayerWeights, h: Rows, into: Rows) -> None:
        p.matmul(layer.ffn_gate, h, into=self.gate, barrier=False)
        p.matmul(layer.ffn_up, h, into=self.up)
        p.swiglu(self.gate, self.up)
        p.matmul(layer.ffn_down, self.gate, into=into, add=True)


class Mixture:
    """into += the same of the chosen experts, weighted.

    logits                  (n_tokens, n_expert): what the router says
    pairs, gate, up, out    (n_tokens * n_used, ...): rows of pairs, sorted by expert
    choices, shares, pair_rows   (n_tokens, n_used) i32, f32, i32: see `kernels/experts.py`
    """

    def __init__(self, layers: Sequence[LayerWeights], n_tokens: int, n_used: int) -> None:
        first, n_pairs = layers[0], n_tokens * n_used
        self.n_expert, self.n_used, self.n_tokens = first.ffn_gate.n_experts, n_used, n_tokens
        self.logits = Rows(n_tokens, self.n_expert)
        self.pairs = rows_for(n_pairs, first.ffn_gate.n_cols, *(m for y in layers for m in (y.ffn_gate, y.ffn_up)))
        self.gate = rows_for(n_pairs, first.ffn_gate.n_rows, *(layer.ffn_down for layer in layers))
        self.up = rows_for(n_pairs, first.ffn_up.n_rows)
        self.out = rows_for(n_pairs, first.ffn_down.n_rows)
        self.choices = np.zeros((n_tokens, n_used), np.int32)
        self.shares = np.zeros((n_tokens, n_used), np.float32)
        self.pair_rows = np.zeros((n_tokens, n_used), np.int32)
        self._steps = np.zeros((self.n_expert + 1, STEP_FIELDS), np.int64)
        self._next_rows = np.zeros(self.n_expert, np.int64)
        # Of gate, up and down of each expert, and of SwiGLU. Every layer's `route` zeroes them for this layer.
        self._n_counters = 3 * self.n_expert + 1
        self._counters = Buffer(self._n_counters, LINE)

    @property
    def activations(self) -> tuple[Rows, ...]:
        return self.logits, self.pairs, self.gate, self.up, self.out

    def write(self, p: Program, layer: LayerWeights, h: Rows, into: Rows) -> None:
        assert layer.ffn_router is not None
        tables = np.zeros((3, self.n_expert, MATMUL_FIELDS), np.int64)  # of gate, up and down
        p.keep((self, tables))
        p.matmul(layer.ffn_router, h, into=self.logits)
        self._route(p, tables)
        self._gather(p, layer, h)
        most = self.n_tokens  # a token's experts are distinct
        p.matmul_apart(
            layer.ffn_gate, self.pairs, self.gate, tables[0], self._calls(0), most_tokens=most, barrier=False
        )
        p.matmul_apart(layer.ffn_up, self.pairs, self.up, tables[1], self._calls(1), most_tokens=most)
        p.swiglu_apart(self.gate, self.up, self._calls(3, first_step=self.n_expert))
        p.matmul_apart(layer.ffn_down, self.gate, self.out, tables[2], self._calls(2), most_tokens=most)
        self._combine(p, into)

    def _calls(self, table: int, first_step: int = 0) -> Calls:
        counter = self._counters.address + LINE * self.n_expert * table
        return Calls(int(self._steps[first_step:].ctypes.data), counter)

    def _routing(self) -> dict[int, int]:
        return {
            experts.EXPERT_STEPS: int(self._steps.ctypes.data),
            experts.CHOICES: int(self.choices.ctypes.data),
            experts.SHARES: int(self.shares.ctypes.data),
            experts.PAIR_ROWS: int(self.pair_rows.ctypes.data),
            experts.N_USED: self.n_used,
        }

    def _route(self, p: Program, tables: npt.NDArray[np.int64]) -> None:
        fields = self._routing() | {
            experts.LOGITS: self.logits.values.address,
            experts.LOGITS_STRIDE: self.logits.values.stride,
            experts.N_EXPERT: self.n_expert,
            experts.NEXT_ROWS: int(self._next_rows.ctypes.data),
            experts.TABLES: int(tables.ctypes.data),
            experts.N_TABLES: len(tables),
            experts.COUNTERS: self._counters.address,
            experts.N_COUNTERS: self._n_counters,
        }
        p.append(experts.route, experts.ROUTE_FIELDS, fields)

    def _gather(self, p: Program, layer: LayerWeights, h: Rows) -> None:
        """Only the forms that this layer's experts read."""
        forms = {form_for(layer.ffn_gate), form_for(layer.ffn_up)}
        fields = self._routing()
        for i, form in enumerate(sorted(forms)):
            source, copy = (r.values if form == Activation.F32 else r.forms[int(form)] for r in (h, self.pairs))
            place = experts.FORMS + experts.FORM_FIELDS * i
            fields |= {place: source.address, place + 1: copy.address, place + 2: source.stride}
        p.append(experts.gather, experts.GATHER_FIELDS, fields)

    def _combine(self, p: Program, into: Rows) -> None:
        fields = self._routing() | {
            experts.RESULTS: self.out.values.address,
            experts.INTO: into.values.address,
            experts.STRIDE: into.values.stride,
            experts.N: into.n,
        }
        p.append(experts.combine, experts.COMBINE_FIELDS, fields)
