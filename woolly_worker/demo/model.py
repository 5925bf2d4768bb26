"""The demo model in PyTorch: llama's forward pass as one function over a dictionary of GGUF-named tensors.

It is a training-time tool. Woolly's engine never imports it; the exported file is all the two have in common.
Rotary embeddings turn adjacent pairs (2i, 2i + 1), as GGUF's llama does, so that nothing is permuted on export.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Parameters = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes under llama.cpp's names; rows are multiples of 256, so that every GGUF quantization fits."""

    n_vocab: int
    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 8
    n_head_kv: int = 4
    n_ff: int = 512
    n_ctx: int = 512
    rms_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and its (rows, columns) or (length,)."""
        n_kv = self.n_head_kv * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.n_vocab, self.n_embd)}
        for i in range(self.n_layer):
            shapes |= {
                f"blk.{i}.attn_norm.weight": (self.n_embd,),
                f"blk.{i}.attn_q.weight": (self.n_embd, self.n_embd),
                f"blk.{i}.attn_k.weight": (n_kv, self.n_embd),
                f"blk.{i}.attn_v.weight": (n_kv, self.n_embd),
                f"blk.{i}.attn_output.weight": (self.n_embd, self.n_embd),
                f"blk.{i}.ffn_norm.weight": (self.n_embd,),
                f"blk.{i}.ffn_gate.weight": (self.n_ff, self.n_embd),
                f"blk.{i}.ffn_up.weight": (self.n_ff, self.n_embd),
                f"blk.{i}.ffn_down.weight": (self.n_embd, self.n_ff),
            }
        shapes["output_norm.weight"] = (self.n_embd,)
        return shapes

    @property
    def n_params(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())


def initial_parameters(shape: Shape, seed: int) -> Parameters:
    """What a layer adds starts at zero. Embeddings start large, so that a word can still be told from the sum of all
    that the layers add to it; the last norm starts small in turn, because the embedding is the output matrix, too."""
    generator = torch.Generator().manual_seed(seed)
    parameters: Parameters = {}
    for name, size in shape.tensors().items():
        if len(size) == 1:
            value = torch.full(size, 0.1 if name.startswith("output_norm") else 1.0)
        elif name.endswith(("attn_output.weight", "ffn_down.weight")):
            value = torch.zeros(size)
        else:
            std = 0.5 if name.startswith("token_embd") else 1 / math.sqrt(shape.n_embd)
            value = torch.randn(size, generator=generator) * std
        parameters[name] = value.requires_grad_()
    return parameters


def rope_table(shape: Shape, n_positions: int) -> Tensor:
    """(n_positions, head_dim / 2, 2): cosine and sine of position times frequency."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float32), shape.rope_base**-exponents)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each adjacent pair of `x` (batch, position, head, head_dim) by its position's angle."""
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = table[: x.shape[1], None, :, 0], table[: x.shape[1], None, :, 1]
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def _attention(h: Tensor, p: Parameters, layer: str, shape: Shape, table: Tensor, mask: Tensor) -> Tensor:
    batch, n, _ = h.shape
    n_q, n_kv = shape.n_embd, shape.n_head_kv * shape.head_dim
    # One product for queries, keys and values: fewer, larger matmuls are faster on a CPU.
    qkv_weight = torch.cat([p[f"{layer}.attn_{x}.weight"] for x in "qkv"])
    q, k, v = functional.linear(h, qkv_weight).split((n_q, n_kv, n_kv), dim=-1)
    q = _rotate(q.view(batch, n, shape.n_head, shape.head_dim), table).transpose(1, 2)
    k = _rotate(k.view(batch, n, shape.n_head_kv, shape.head_dim), table).transpose(1, 2)
    v = v.view(batch, n, shape.n_head_kv, shape.head_dim).transpose(1, 2)
    group = shape.n_head // shape.n_head_kv
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return functional.linear(mixed.transpose(1, 2).reshape(batch, n, n_q), p[f"{layer}.attn_output.weight"])


def _feed_forward(h: Tensor, p: Parameters, layer: str) -> Tensor:
    weight = torch.cat((p[f"{layer}.ffn_gate.weight"], p[f"{layer}.ffn_up.weight"]))
    gate, up = functional.linear(h, weight).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, p[f"{layer}.ffn_down.weight"])


def document_mask(documents: Tensor) -> Tensor:
    """(batch, 1, position, position): a token sees itself and what stands before it in its own document."""
    n = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(n, n, dtype=torch.bool).tril()


def forward(p: Parameters, token_ids: Tensor, documents: Tensor, shape: Shape, table: Tensor) -> Tensor:
    """Logits (batch, position, n_vocab) of `token_ids` (batch, position), each of the document with that number."""
    mask = document_mask(documents)

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (shape.n_embd,), p[f"{name}.weight"], shape.rms_eps)

    x = functional.embedding(token_ids, p["token_embd.weight"])
    for i in range(shape.n_layer):
        layer = f"blk.{i}"
        x = x + _attention(norm(x, f"{layer}.attn_norm"), p, layer, shape, table, mask)
        x = x + _feed_forward(norm(x, f"{layer}.ffn_norm"), p, layer)
    return functional.linear(norm(x, "output_norm"), p["token_embd.weight"])
