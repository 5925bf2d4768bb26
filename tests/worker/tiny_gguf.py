"""Writes tiny GGUF files for tests, with the `gguf` package: a writer that is not ours.

The model is a two-layer llama with random weights from a fixed seed; the SPM vocabulary has the 256 bytes, the
printable characters and a few merges, the BPE one the byte alphabet and a few merges.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import TokenType

N_EMBD, N_LAYER, N_HEAD, N_HEAD_KV, N_FF, N_CTX = 32, 2, 4, 2, 64, 128
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What these words need to become one token each; ranks in this order.
_MERGES = ("t h", "th e", "w o", "o l", "wo ol", "i n", "in g", "wool l")
_SPM_PIECES = ("th", "the", "wo", "ol", "wool", "in", "ing", "\u2581the", "\u2581wool", "\u2581\u2581", "\u2581w")


def spm_vocab() -> tuple[list[str], list[int], list[float]]:
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 4, *[TokenType.BYTE] * 256]
    characters = ["\u2581", *(chr(code) for code in range(0x21, 0x7F)), "ä", "é", "🧶"]
    pieces = [*_SPM_PIECES, *characters]
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    return tokens + pieces, [*types, *[TokenType.NORMAL] * len(pieces)], scores


def byte_characters() -> list[str]:
    """GPT-2's alphabet, written down the way its authors did."""
    codes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [code for code in range(256) if code not in codes]
    characters = {code: chr(code) for code in codes} | {code: chr(256 + i) for i, code in enumerate(moved)}
    return [characters[code] for code in range(256)]


def bpe_vocab() -> tuple[list[str], list[int], list[str]]:
    merged = [merge.replace(" ", "") for merge in _MERGES]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*byte_characters(), *merged, *special, "<tool>"]
    types = [*[TokenType.NORMAL] * (256 + len(merged)), *[TokenType.CONTROL] * 3, TokenType.USER_DEFINED]
    return tokens, types, list(_MERGES)


def add_vocab(writer: gguf.GGUFWriter, kind: str, pre: str) -> int:
    if kind == "spm":
        tokens, types, scores = spm_vocab()
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    else:
        tokens, types, merges = bpe_vocab()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(tokens.index("<|endoftext|>"))
        writer.add_eos_token_id(tokens.index("<|im_end|>"))
    return len(tokens)


def write(
    path: Path,
    *,
    vocab: str = "spm",
    pre: str = "gpt-2",
    kind: Type = Type.Q8_0,
    tied: bool = False,
    keys: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray] = {},
    without: tuple[str, ...] = (),
    architecture: str = "llama",
    chat_template: str | None = CHAT_TEMPLATE,
    alignment: int | None = None,
) -> Path:
    """`keys` and `tensors` are added (a tensor of a known name replaces it); `without` names keys and tensors that are
    left out."""
    values: dict[str, Any] = {
        "general.name": "tiny",
        "llama.context_length": np.uint32(N_CTX),
        "llama.embedding_length": np.uint32(N_EMBD),
        "llama.block_count": np.uint32(N_LAYER),
        "llama.feed_forward_length": np.uint32(N_FF),
        "llama.attention.head_count": np.uint32(N_HEAD),
        "llama.attention.head_count_kv": np.uint32(N_HEAD_KV),
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        **keys,
    }
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in values.items():
        if key not in without:
            add_value(writer, key, value)
    n_vocab = add_vocab(writer, vocab, pre)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, tensor in (_tensors(n_vocab, kind, tied) | dict(tensors)).items():
        if name not in without:
            quantized = kind if tensor.ndim == 2 and name not in tensors else None
            if quantized not in (None, Type.F32):
                writer.add_tensor(name, gguf.quants.quantize(tensor, quantized), raw_dtype=quantized)
            else:
                writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders = {
        str: writer.add_string,
        bool: writer.add_bool,
        np.uint8: writer.add_uint8,
        np.int8: writer.add_int8,
        np.uint16: writer.add_uint16,
        np.int16: writer.add_int16,
        np.uint32: writer.add_uint32,
        np.int32: writer.add_int32,
        np.float32: writer.add_float32,
        np.uint64: writer.add_uint64,
        np.int64: writer.add_int64,
        np.float64: writer.add_float64,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _tensors(n_vocab: int, kind: Type, tied: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (rng.standard_normal((rows, cols)) * cols**-0.5).astype(np.float32)

    kv_width = N_EMBD // N_HEAD * N_HEAD_KV
    tensors = {"token_embd.weight": matrix(n_vocab, N_EMBD), "output_norm.weight": np.ones(N_EMBD, np.float32)}
    if not tied:
        tensors["output.weight"] = matrix(n_vocab, N_EMBD)
    for layer in range(N_LAYER):
        shapes = {
            "attn_q": (N_EMBD, N_EMBD),
            "attn_k": (kv_width, N_EMBD),
            "attn_v": (kv_width, N_EMBD),
            "attn_output": (N_EMBD, N_EMBD),
            "ffn_gate": (N_FF, N_EMBD),
            "ffn_up": (N_FF, N_EMBD),
            "ffn_down": (N_EMBD, N_FF),
        }
        for name, (rows, cols) in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = matrix(rows, cols)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = np.linspace(0.5, 1.5, N_EMBD, dtype=np.float32)
    return tensors
