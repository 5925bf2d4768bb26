"""Writes small llama GGUF files of any shape and tensor type, with the `gguf` package. Weights are random, seeded.

The package quantises the formats of 32; for K-quants and i-quants it has no quantiser, so their blocks are random bytes
with scales that keep activations near unit size. Which of them a trained model would have does not matter here.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type


@dataclass(frozen=True)
class Shape:
    n_embd: int = 256
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 512
    n_vocab: int = 300  # no multiple of sixteen: some rows lie behind the last panel
    n_ctx: int = 256
    head_dim: int | None = None
    n_expert: int = 0  # 0: one dense network
    n_expert_used: int = 0

    @property
    def width(self) -> int:
        """Dimensions of one head."""
        return self.head_dim or self.n_embd // self.n_head


K_QUANTS = Shape()
LEGACY = Shape(n_embd=96, n_head=12, n_head_kv=1, n_ff=160, n_vocab=77, head_dim=8)
ODD = Shape(n_embd=70, n_head=5, n_head_kv=5, n_ff=99, n_vocab=61)  # head_dim 14, every head with its own keys
MIXTURE = Shape(n_expert=5, n_expert_used=2)

SHAPES = {
    Type.F32: ODD,
    Type.F16: ODD,
    Type.BF16: ODD,
    Type.Q8_0: LEGACY,
    Type.Q4_0: LEGACY,
    Type.Q4_K: K_QUANTS,
    Type.Q6_K: K_QUANTS,
    Type.IQ3_XXS: K_QUANTS,
    Type.IQ2_XS: K_QUANTS,
}

# Where a block has its f16 scales.
_BLOCK_SCALES = {
    Type.Q4_K: (0, 2),
    Type.Q6_K: (208,),
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q5_K: (0, 2),
    Type.IQ4_XS: (0,),
    Type.TQ1_0: (52,),
    Type.TQ2_0: (64,),
    Type.IQ3_XXS: (0,),
    Type.IQ2_XS: (0,),
}
# The size of scale * q that random bytes have.
_TYPICAL = {
    Type.Q4_K: 63 * 15 / 4,
    Type.Q6_K: 75 * 18,
    Type.Q2_K: 15 * 3 / 4,
    Type.Q3_K: 18 * 2.3,
    Type.Q5_K: 63 * 31 / 4,
    Type.IQ4_XS: 18 * 67,
    Type.TQ1_0: 0.8,
    Type.TQ2_0: 1.2,
    Type.IQ3_XXS: 142,
    Type.IQ2_XS: 56,
}


def write(
    path: Path,
    kind: Type,
    shape: Shape | None = None,
    *,
    mixed: dict[str, Type] | None = None,
    tied: bool = False,
    rope: dict[str, float | str] | None = None,
    rope_factors: np.ndarray | None = None,
    seed: int = 11,
) -> Path:
    """`mixed` gives other types to tensors by the last part of their name; `rope` adds keys below `llama.rope`."""
    s = shape or SHAPES[kind]
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(s.n_ctx)
    writer.add_embedding_length(s.n_embd)
    writer.add_block_count(s.n_layer)
    writer.add_feed_forward_length(s.n_ff)
    writer.add_head_count(s.n_head)
    writer.add_head_count_kv(s.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(s.n_vocab)
    if s.n_expert:
        writer.add_expert_count(s.n_expert)
        writer.add_expert_used_count(s.n_expert_used)
    if s.head_dim is not None:
        writer.add_key_length(s.head_dim)
        writer.add_value_length(s.head_dim)
    for key, value in (rope or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"llama.rope.{key}", value)

    def matrix(name: str, rows: int, cols: int, *, stack: int = 0) -> None:
        """`stack` matrices in one tensor, or an ordinary one."""
        type_ = (mixed or {}).get(name.split(".")[-2], kind)
        n_rows = max(1, stack) * rows
        if type_ in _BLOCK_SCALES:
            data = _blocks(type_, n_rows, cols, rng)
        else:
            weights = (rng.standard_normal((n_rows, cols)) * cols**-0.5).astype(np.float32)
            if type_ in (Type.F32, Type.F16):
                data = weights.astype(np.float16 if type_ == Type.F16 else np.float32)
            else:
                data = gguf.quants.quantize(weights, type_)
        shape = (stack, rows, -1) if stack else (rows, -1)
        writer.add_tensor(name, data.reshape(shape), raw_dtype=type_)

    def network(name: str, rows: int, cols: int) -> None:
        matrix(f"{name}_exps.weight" if s.n_expert else f"{name}.weight", rows, cols, stack=s.n_expert)

    def vector(name: str, n: int) -> None:
        writer.add_tensor(name, rng.uniform(0.5, 1.5, n).astype(np.float32))

    q_width, kv_width = s.n_head * s.width, s.n_head_kv * s.width
    matrix("token_embd.weight", s.n_vocab, s.n_embd)
    vector("output_norm.weight", s.n_embd)
    if not tied:
        matrix("output.weight", s.n_vocab, s.n_embd)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    for i in range(s.n_layer):
        vector(f"blk.{i}.attn_norm.weight", s.n_embd)
        vector(f"blk.{i}.ffn_norm.weight", s.n_embd)
        matrix(f"blk.{i}.attn_q.weight", q_width, s.n_embd)
        matrix(f"blk.{i}.attn_k.weight", kv_width, s.n_embd)
        matrix(f"blk.{i}.attn_v.weight", kv_width, s.n_embd)
        matrix(f"blk.{i}.attn_output.weight", s.n_embd, q_width)
        if s.n_expert:
            router = rng.standard_normal((s.n_expert, s.n_embd)) * s.n_embd**-0.5
            writer.add_tensor(f"blk.{i}.ffn_gate_inp.weight", router.astype(np.float32))
        network(f"blk.{i}.ffn_gate", s.n_ff, s.n_embd)
        network(f"blk.{i}.ffn_up", s.n_ff, s.n_embd)
        network(f"blk.{i}.ffn_down", s.n_embd, s.n_ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _blocks(kind: Type, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    _, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, cols // 256, n_bytes)).astype(np.uint8)
    for place in _BLOCK_SCALES[kind]:
        scale = rng.uniform(0.5, 1.5, (rows, cols // 256)) * cols**-0.5 / _TYPICAL[kind]
        blocks[..., place : place + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)
