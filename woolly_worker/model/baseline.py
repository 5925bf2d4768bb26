"""The naive engine, kept: the same model computed the obvious way, by the plain loops of `kernels/naive.py`.

It takes the place of a `Transformer` (`woolly worker --baseline`), with the same batch and the same results to within
rounding, so that a speedup is measured and not remembered. Activations stay f32 where the optimised kernels round them
to 8 bits, so its logits are the more exact ones.

One thread. Keys and values lie in plain arrays of its own, found through the engine's block tables.
"""

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import UnsupportedArchitecture
from woolly_worker.kernels import matmul, naive
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import filling_numba_cache
from woolly_worker.kernels.step import N_TOKENS, STEP_FIELDS, TOKEN_IDS
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, blocks_for
from woolly_worker.model.batch import StepBatch
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.transformer import angles_for
from woolly_worker.model.weights import LayerWeights, Matrix, Weights

Floats = npt.NDArray[np.float32]

# What is computed below. A layer with anything else in it would come out wrong without a word.
_LAYER_FIELDS = frozenset(
    ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
)


class NaiveMatrix:
    """A matrix of the file, and what its format's embedding operation wants to hear to dequantise one row of it."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self._embed = FORMATS[matrix.type.name].embed.address
        self._ids, self._counter = np.zeros(1, np.int32), np.zeros(1, np.int64)
        self._step = np.zeros(STEP_FIELDS, np.int64)
        self._step[N_TOKENS], self._step[TOKEN_IDS] = 1, self._ids.ctypes.data
        self._record = np.zeros(matmul.EMBED_FIELDS, np.int64)
        self._record[matmul.WEIGHTS], self._record[matmul.ROW_BYTES] = matrix.address, matrix.row_bytes
        self._record[matmul.EMBED_N_COLS] = matrix.n_cols

    def __matmul__(self, x: Floats) -> Floats:
        """(n_tokens, n_cols) -> (n_tokens, n_rows)."""
        how = (self._embed, self._record, self._step, self._ids, self._counter)
        product: Floats = naive.matmul(*how, self.matrix.n_rows, x)
        return product

    def rows(self, token_ids: npt.NDArray[np.int32]) -> Floats:
        """(n_tokens, n_cols): the rows with these numbers."""
        how = (self._embed, self._record, self._step, self._ids, self._counter)
        found: Floats = naive.embedding(*how, token_ids, self.matrix.n_cols)
        return found


class Baseline:
    """A forward pass as the engine knows it; see `engine/interfaces.py`.

    n_blocks  KV blocks that the block tables may name; each takes the f32 keys and values of 32 positions here
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        n_blocks: int,
        max_step_tokens: int,
        max_logit_rows: int,
        max_slots: int,
        n_ctx: int,
    ) -> None:
        """Raises UnsupportedArchitecture for a model with more to it than is computed here."""
        _refuse_more(config, weights)
        self.config, self.weights, self.n_ctx = config, weights, n_ctx
        self.batch = StepBatch(
            max_step_tokens=max_step_tokens,
            max_logit_rows=max_logit_rows,
            max_slots=max_slots,
            max_blocks_per_slot=blocks_for(n_ctx),
        )
        self._angles = angles_for(config, weights, n_ctx)
        # Zeros that are not touched take no memory.
        kv_shape = (config.n_layer, n_blocks * BLOCK_TOKENS, config.n_head_kv, config.head_dim)
        self._keys, self._values = np.zeros(kv_shape, np.float32), np.zeros(kv_shape, np.float32)
        self._token_embd, self._output = NaiveMatrix(weights.token_embd), NaiveMatrix(weights.output)
        self._layers = [
            {name: NaiveMatrix(value) for name, value in _items(layer) if isinstance(value, Matrix)}
            for layer in weights.layers
        ]
        with filling_numba_cache():  # by one token, before anybody waits for it
            self.batch.n_tokens = self.batch.n_logit_rows = 1
            self.step()
        self.batch.clear()

    def step(self) -> Floats:
        """Compute the batch. Returns the logits, (n_logit_rows, n_vocab) f32."""
        b, c = self.batch, self.config
        n = b.n_tokens
        positions, slots = b.positions[:n], b.slots[:n]
        places = b.block_tables[slots, positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS
        eps = np.float32(c.rms_eps)
        x = self._token_embd.rows(b.token_ids[:n])
        for i, (w, layer) in enumerate(zip(self._layers, self.weights.layers, strict=True)):
            h = naive.rmsnorm(x, layer.attn_norm, eps)
            q = (w["attn_q"] @ h).reshape(n, c.n_head, c.head_dim)
            k = (w["attn_k"] @ h).reshape(n, c.n_head_kv, c.head_dim)
            v = (w["attn_v"] @ h).reshape(n, c.n_head_kv, c.head_dim)
            q, k = naive.rope(q, positions, self._angles), naive.rope(k, positions, self._angles)
            self._keys[i, places], self._values[i, places] = k, v
            attended = naive.attention(q, self._keys[i], self._values[i], positions, slots, b.block_tables)
            x = naive.add(x, w["attn_output"] @ attended.reshape(n, c.q_width))

            h = naive.rmsnorm(x, layer.ffn_norm, eps)
            x = naive.add(x, w["ffn_down"] @ naive.swiglu(w["ffn_gate"] @ h, w["ffn_up"] @ h))
        last = np.ascontiguousarray(x[b.logit_rows[: b.n_logit_rows]])
        logits: Floats = self._output @ naive.rmsnorm(last, self.weights.output_norm, eps)
        return logits

    def close(self) -> None:
        """It has no threads to end."""


def _items(layer: LayerWeights) -> list[tuple[str, object]]:
    return [(field.name, getattr(layer, field.name)) for field in fields(layer)]


def _refuse_more(config: ModelConfig, weights: Weights) -> None:
    if config.n_expert:
        raise UnsupportedArchitecture("the baseline computes plain llama models, and this is a mixture of experts")
    more = sorted({name for layer in weights.layers for name, value in _items(layer) if value is not None})
    unknown = [name for name in more if name not in _LAYER_FIELDS]
    if config.architecture != "llama" or config.rope.neox or unknown:
        reason = f"its layers have {', '.join(unknown)}" if unknown else f"this is {config.architecture}"
        raise UnsupportedArchitecture(f"the baseline computes plain llama models, and {reason}")
