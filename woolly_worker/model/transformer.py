"""The forward pass: the paper's diagram, written once as a program that a team of threads runs every step.

It computes logits for the tokens of a batch, and files their keys and values. Who is in the batch, and what the
logits are for, is the engine's business.
"""

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.compile_ahead import CompileProgress, prepare
from woolly_worker.kernels.rope import rope_table
from woolly_worker.kernels.step import N_LOGIT_ROWS, N_TOKENS
from woolly_worker.kernels.team import TEAM_OPERATIONS, Team
from woolly_worker.memory.activations import Buffer, Rows
from woolly_worker.memory.kv_cache import KV_TYPES, KVCache, KVLayout, KVType, blocks_for, padded_head_dim
from woolly_worker.model.batch import StepBatch
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.networks import DenseNetwork, Mixture
from woolly_worker.model.program import Program, bind_batch, rows_for
from woolly_worker.model.weights import Weights

# A step that multiplies less than this is run by one thread, in 0.15 ms or less. Two threads would save 0.05 ms of
# that on an idle machine; on a busy one, where a thread is descheduled for milliseconds between two barriers, they
# made a step of the demo model ten times longer.
ALONE_BELOW_PRODUCTS = 16_000_000


def kv_layout(config: ModelConfig, dtype: KVType = "f16") -> KVLayout:
    """How this model's keys and values lie in KV blocks."""
    if dtype not in KV_TYPES:
        raise ValueError(f"keys and values are kept as {', '.join(KV_TYPES)}, not as {dtype!r}")
    return KVLayout(config.n_layer, config.n_head_kv, padded_head_dim(config.head_dim, dtype), dtype)


def angles_for(config: ModelConfig, weights: Weights, n_ctx: int) -> npt.NDArray[np.float32]:
    """(n_ctx, head_dim / 2, 2): cosine and sine of every position, as this model scales them."""
    r = config.rope
    return rope_table(
        n_ctx,
        r.dimension_count,
        r.freq_base,
        factor=r.factor,
        attn_factor=r.attn_factor,
        ext_factor=r.ext_factor,
        original_context_length=r.original_context_length,
        beta_fast=r.beta_fast,
        beta_slow=r.beta_slow,
        freq_factors=weights.rope_freqs,
    )


class Transformer:
    """A model that is ready to step.

    batch   what the next step computes; the caller fills it in place
    n_ctx   positions that a sequence may have
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        kv: KVCache,
        *,
        n_threads: int,
        max_step_tokens: int,
        max_logit_rows: int,
        max_slots: int,
        n_ctx: int,
        alone_below: int = ALONE_BELOW_PRODUCTS,
        on_compile: CompileProgress = lambda n_ready, n_all: None,
    ) -> None:
        """`alone_below`: steps of fewer products than this are run by one thread; 0 never does."""
        self.config, self.weights, self.kv = config, weights, kv
        self.n_ctx, self.n_threads = n_ctx, n_threads
        self._alone_below = alone_below
        self.batch = StepBatch(
            max_step_tokens=max_step_tokens,
            max_logit_rows=max_logit_rows,
            max_slots=max_slots,
            max_blocks_per_slot=blocks_for(n_ctx),
        )
        self._logits = Rows(max_logit_rows, config.n_vocab)
        self._logits_view = self._logits.array()
        self._program = self._write_program(max_step_tokens, max_logit_rows)
        prepare([*self._program.operations(), *TEAM_OPERATIONS], on_compile)
        self._team = Team(self._program.array(), n_threads)
        self._products_per_token = sum(layer.products_per_token(config.n_expert_used) for layer in weights.layers)
        self._products_per_logit_row = weights.output.n_rows * weights.output.n_cols
        bind_batch(self._team.step, self.batch)

    def _write_program(self, n_tokens: int, n_logit_rows: int) -> Program:
        c, w = self.config, self.weights
        # Layers of one file may differ in tensor type, so a buffer gets the forms of every layer's readers.
        layers = w.layers
        x = rows_for(n_tokens, c.n_embd)
        h = rows_for(
            n_tokens,
            c.n_embd,
            *(m for y in layers for m in (y.attn_q, y.attn_k, y.attn_v, y.ffn_gate, y.ffn_up)),
        )
        q = rows_for(n_tokens, c.q_width)
        k, v = rows_for(n_tokens, c.kv_width), rows_for(n_tokens, c.kv_width)
        attended = rows_for(n_tokens, c.q_width, *(layer.attn_output for layer in layers))
        last = rows_for(n_logit_rows, c.n_embd, w.output)

        p = Program(self.n_threads, self.kv, n_head=c.n_head, head_dim=c.head_dim, n_ctx=self.n_ctx)
        angles = angles_for(c, w, self.n_ctx)
        network = Mixture(layers, n_tokens, c.n_expert_used) if c.n_expert else DenseNetwork(layers, n_tokens)
        self._activations = (x, h, q, k, v, attended, *network.activations, last, self._logits)
        p.embed(w.token_embd, into=x)
        for i, layer in enumerate(layers):
            p.norm(x, layer.attn_norm, c.rms_eps, into=h)
            p.matmul(layer.attn_q, h, into=q, barrier=False)
            p.matmul(layer.attn_k, h, into=k, barrier=False)
            p.matmul(layer.attn_v, h, into=v)
            p.rope_and_file(q, k, v, angles, layer=i)
            p.attention(q, into=attended, layer=i)
            p.quantize(attended)
            p.matmul(layer.attn_output, attended, into=x, add=True)

            p.norm(x, layer.ffn_norm, c.rms_eps, into=h)
            network.write(p, layer, h, into=x)
        p.norm(x, w.output_norm, c.rms_eps, into=last, gather=True)
        p.matmul(w.output, last, into=self._logits, logit_rows=True)
        return p

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The memory of all activations."""
        return tuple(buffer for rows in self._activations for buffer in rows.buffers)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of all activations."""
        return sum(buffer.n_bytes for buffer in self.buffers)

    def step(self) -> npt.NDArray[np.float32]:
        """Compute the batch. Returns the logits, (n_logit_rows, n_vocab) f32: a view, valid until the next step."""
        step, n_tokens, n_logit_rows = self._team.step, self.batch.n_tokens, self.batch.n_logit_rows
        step[N_TOKENS], step[N_LOGIT_ROWS] = n_tokens, n_logit_rows
        products = n_tokens * self._products_per_token + n_logit_rows * self._products_per_logit_row
        self._team.run(alone=products < self._alone_below)
        return self._logits_view[:n_logit_rows]

    def close(self) -> None:
        """End the thread team; the transformer cannot step afterwards."""
        self._team.close()
