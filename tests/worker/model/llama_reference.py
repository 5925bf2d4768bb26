"""The forward pass of a llama in NumPy and float64, read with the `gguf` package: slow, obvious, and not ours.

It shares no line with the engine: other reader, other dequantisation, no cache, the whole sequence at once.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Doubles]]:
    reader = gguf.GGUFReader(path)
    keys = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in reader.tensors
    }
    return keys, tensors


def rmsnorm(x: Doubles, weight: Doubles, eps: float) -> Doubles:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def turn(x: Doubles, angles: Doubles) -> Doubles:
    """x (n, heads, head_dim): neighbours (2 i, 2 i + 1) turned by angles (n, head_dim / 2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1).reshape(x.shape)


def softmax(x: Doubles) -> Doubles:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def network(h: Doubles, w: dict[str, Doubles]) -> Doubles:
    gate = h @ w["ffn_gate"].T
    return (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T


def mixture(h: Doubles, w: dict[str, Doubles], n_used: int) -> Doubles:
    shares = softmax(h @ w["ffn_gate_inp"].T)
    shares[shares < np.sort(shares, axis=1)[:, -n_used, None]] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    parts = ("ffn_gate", "ffn_up", "ffn_down")
    results = [network(h, {part: w[f"{part}_exps"][e] for part in parts}) for e in range(shares.shape[1])]
    return np.einsum("te,etn->tn", shares, np.stack(results))


def logits(path: Path, ids: list[int]) -> Doubles:
    keys, t = read(path)
    eps, n_head = keys["attention.layer_norm_rms_epsilon"], keys["attention.head_count"]
    n_head_kv = keys["attention.head_count_kv"]
    head_dim = keys.get("attention.key_length", keys["embedding_length"] // n_head)
    n = len(ids)
    frequencies = keys.get("rope.freq_base", 10000.0) ** (-np.arange(0, head_dim, 2) / head_dim)
    if "rope_freqs.weight" in t:
        frequencies = frequencies / t["rope_freqs.weight"]
    if keys.get("rope.scaling.type") == "linear":
        frequencies = frequencies / keys["rope.scaling.factor"]
    angles = np.arange(n)[:, None] * frequencies
    hidden = np.where(np.arange(n)[None] > np.arange(n)[:, None], -np.inf, 0.0)  # (query, key)

    x = t["token_embd.weight"][ids]
    for i in range(keys["block_count"]):
        w = {name.split(".")[2]: tensor for name, tensor in t.items() if name.startswith(f"blk.{i}.")}
        h = rmsnorm(x, w["attn_norm"], eps)
        q = turn((h @ w["attn_q"].T).reshape(n, n_head, head_dim), angles)
        k = turn((h @ w["attn_k"].T).reshape(n, n_head_kv, head_dim), angles)
        v = (h @ w["attn_v"].T).reshape(n, n_head_kv, head_dim)
        k, v = (np.repeat(y, n_head // n_head_kv, axis=1) for y in (k, v))
        weights = softmax(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim) + hidden)
        x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1) @ w["attn_output"].T
        h = rmsnorm(x, w["ffn_norm"], eps)
        x = x + (mixture(h, w, keys["expert_used_count"]) if "ffn_gate_inp" in w else network(h, w))
    return rmsnorm(x, t["output_norm.weight"], eps) @ t.get("output.weight", t["token_embd.weight"]).T
