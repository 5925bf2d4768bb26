"""Llama, and what is built like it (Llama 1 to 3.2, Mistral 7B, Mixtral, TinyLlama, DeepSeek-LLM, stories260K): RMSNorm
before attention and before the SwiGLU network, rotary positions, grouped-query attention. The network may be a mixture
of experts.

Refused by name: sliding windows. Tensors beyond the table, such as biases, are refused by
`model/weights.py`.
"""

from woolly_worker.model.architectures.description import Architecture, MatrixSpec, VectorSpec

_EVERY_LAYER = (
    VectorSpec("attn_norm", "blk.{i}.attn_norm.weight", "n_embd"),
    MatrixSpec("attn_q", "blk.{i}.attn_q.weight", rows="q_width", cols="n_embd"),
    MatrixSpec("attn_k", "blk.{i}.attn_k.weight", rows="kv_width", cols="n_embd"),
    MatrixSpec("attn_v", "blk.{i}.attn_v.weight", rows="kv_width", cols="n_embd"),
    MatrixSpec("attn_output", "blk.{i}.attn_output.weight", rows="n_embd", cols="q_width"),
    VectorSpec("ffn_norm", "blk.{i}.ffn_norm.weight", "n_embd"),
)

LLAMA = Architecture(
    name="llama",
    rope_neox=False,
    model_tensors=(
        MatrixSpec("token_embd", "token_embd.weight", rows="n_vocab", cols="n_embd"),
        VectorSpec("output_norm", "output_norm.weight", "n_embd"),
        MatrixSpec("output", "output.weight", rows="n_vocab", cols="n_embd", tied_to="token_embd"),
        VectorSpec("rope_freqs", "rope_freqs.weight", "rope_pairs", required=False),
    ),
    layer_tensors=(
        *_EVERY_LAYER,
        MatrixSpec("ffn_gate", "blk.{i}.ffn_gate.weight", rows="n_ff", cols="n_embd"),
        MatrixSpec("ffn_up", "blk.{i}.ffn_up.weight", rows="n_ff", cols="n_embd"),
        MatrixSpec("ffn_down", "blk.{i}.ffn_down.weight", rows="n_embd", cols="n_ff"),
    ),
    expert_tensors=(
        *_EVERY_LAYER,
        MatrixSpec("ffn_router", "blk.{i}.ffn_gate_inp.weight", rows="n_expert", cols="n_embd"),
        MatrixSpec("ffn_gate", "blk.{i}.ffn_gate_exps.weight", rows="n_ff", cols="n_embd", stacked=True),
        MatrixSpec("ffn_up", "blk.{i}.ffn_up_exps.weight", rows="n_ff", cols="n_embd", stacked=True),
        MatrixSpec("ffn_down", "blk.{i}.ffn_down_exps.weight", rows="n_embd", cols="n_ff", stacked=True),
    ),
    refused_keys=(("attention.sliding_window", "sliding-window attention"),),
)
