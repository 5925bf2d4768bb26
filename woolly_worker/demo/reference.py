"""The demo model's file in NumPy: dequantized weights, float32, one token after another. A second opinion, not fast.

It reads the file with the `gguf` package and the text with the `tokenizers` package, and so shares no code with
Woolly's engine. What both say at temperature 0 should be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from woolly_worker.demo.vocabulary import ASSISTANT, END, USER, Vocabulary

Array = NDArray[np.float32]


@dataclass
class Memory:
    """Keys and values of the tokens so far, one array (token, head, head_dim) for each layer."""

    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    n_tokens: int = 0


class ReferenceModel:
    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.weights: dict[str, Array] = {
            tensor.name: np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            for tensor in reader.tensors
        }

        def value(key: str) -> Any:
            return reader.fields[key].contents()

        self.n_layer: int = value("llama.block_count")
        self.n_head: int = value("llama.attention.head_count")
        self.n_head_kv: int = value("llama.attention.head_count_kv")
        self.head_dim: int = value("llama.rope.dimension_count")
        self.eps: float = value("llama.attention.layer_norm_rms_epsilon")
        self.rope_base: float = value("llama.rope.freq_base")
        self.n_ctx: int = value("llama.context_length")
        tokens, merges = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges")
        self.tokenizer: Tokenizer = Vocabulary(tuple(tokens), tuple(merges)).tokenizer()
        self.end_id = tokens.index(END)

    def _norm(self, x: Array, name: str) -> Array:
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return np.asarray(x * scale * self.weights[f"{name}.weight"], dtype=np.float32)

    def _rotate(self, x: Array, first_position: int) -> Array:
        positions = np.arange(first_position, first_position + len(x))
        angles = np.outer(positions, self.rope_base ** (-np.arange(0, self.head_dim, 2) / self.head_dim))
        cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
        turned = np.empty_like(x)
        turned[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        turned[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return turned

    def _attention(self, h: Array, layer: int, memory: Memory) -> Array:
        n, w, prefix = len(h), self.weights, f"blk.{layer}"
        q = (h @ w[f"{prefix}.attn_q.weight"].T).reshape(n, self.n_head, self.head_dim)
        k = (h @ w[f"{prefix}.attn_k.weight"].T).reshape(n, self.n_head_kv, self.head_dim)
        v = (h @ w[f"{prefix}.attn_v.weight"].T).reshape(n, self.n_head_kv, self.head_dim)
        q, k = self._rotate(q, memory.n_tokens), self._rotate(k, memory.n_tokens)
        if len(memory.keys) == layer:
            memory.keys.append(k)
            memory.values.append(v)
        else:
            memory.keys[layer] = np.concatenate((memory.keys[layer], k))
            memory.values[layer] = np.concatenate((memory.values[layer], v))
        group = self.n_head // self.n_head_kv
        keys, values = np.repeat(memory.keys[layer], group, axis=1), np.repeat(memory.values[layer], group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, keys) / np.sqrt(np.float32(self.head_dim))
        ahead = np.arange(len(keys))[None] > memory.n_tokens + np.arange(n)[:, None]
        scores[:, ahead] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, values).reshape(n, -1)
        return np.asarray(mixed @ w[f"{prefix}.attn_output.weight"].T, dtype=np.float32)

    def step(self, token_ids: list[int], memory: Memory) -> Array:
        """Logits (token, n_vocab) of the next tokens; `memory` grows by them."""
        w = self.weights
        x = w["token_embd.weight"][token_ids]
        for layer in range(self.n_layer):
            x = x + self._attention(self._norm(x, f"blk.{layer}.attn_norm"), layer, memory)
            h = self._norm(x, f"blk.{layer}.ffn_norm")
            gate = h @ w[f"blk.{layer}.ffn_gate.weight"].T
            gate = gate / (1 + np.exp(-gate)) * (h @ w[f"blk.{layer}.ffn_up.weight"].T)
            x = x + gate @ w[f"blk.{layer}.ffn_down.weight"].T
        memory.n_tokens += len(token_ids)
        return np.asarray(self._norm(x, "output_norm") @ w["token_embd.weight"].T, dtype=np.float32)

    def complete(self, prompt: str, *, max_tokens: int = 300, temperature: float = 0.0, seed: int = 0) -> str:
        """What comes after `prompt`, until the end token; the most likely token at temperature 0."""
        rng, memory, said = np.random.default_rng(seed), Memory(), list[int]()
        fed: list[int] = self.tokenizer.encode(prompt).ids
        while len(said) < max_tokens and memory.n_tokens + len(fed) < self.n_ctx:
            logits = self.step(fed, memory)[-1]
            if temperature > 0:
                scaled = np.exp((logits - logits.max()).astype(np.float64) / temperature)
                token = int(rng.choice(len(scaled), p=scaled / scaled.sum()))
            else:
                token = int(logits.argmax())
            if token == self.end_id:
                break
            said.append(token)
            fed = [token]
        text: str = self.tokenizer.decode(said)
        return text

    def answer(self, question: str, **sampling: Any) -> str:
        """The answer to one question, asked as the chat template asks it."""
        return self.complete(f"{USER}{question}{END}{ASSISTANT}", **sampling)
