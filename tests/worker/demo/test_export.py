"""A checkpoint becomes a GGUF that Woolly's own reader understands: names, shapes, numbers, vocabulary, template."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gguf.quants import dequantize

from woolly_worker.demo.checkpoint import load_checkpoint
from woolly_worker.demo.export import export_checkpoint
from woolly_worker.demo.vocabulary import CHAT_TEMPLATE, train_vocabulary
from woolly_worker.gguf.reader import GGUFFile

SHAPE = {
    "n_vocab": 320, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_head_kv": 1, "n_ff": 96, "n_ctx": 128,
    "rms_eps": 1e-5, "rope_base": 10000.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import json

    rng = np.random.default_rng(1)
    vocabulary = train_vocabulary(["the fox and the owl went to the forest, " * 3, "there the thing other then"], 320)
    shape = {**SHAPE, "n_vocab": len(vocabulary.tokens)}
    sizes = {
        "token_embd": (shape["n_vocab"], 64), "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,),
        "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64), "blk.0.attn_output": (64, 64),
        "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64), "blk.0.ffn_down": (64, 96),
    }  # fmt: skip
    weights = {f"{name}.weight": rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    path = tmp_path_factory.mktemp("demo") / "small.checkpoint"
    about = json.dumps({"shape": shape, **dataclasses.asdict(vocabulary)})
    with path.open("wb") as file:
        np.savez(file, about=np.array(about), **weights)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    out = checkpoint.with_suffix(".gguf")
    export_checkpoint(checkpoint, out)
    return out


def test_every_tensor_is_there_within_the_error_of_q8_0(checkpoint: Path, exported: Path) -> None:
    weights, _, _ = load_checkpoint(checkpoint)
    file = GGUFFile(exported)
    try:
        assert set(file.tensors) == set(weights)
        for name, weight in weights.items():
            info = file.tensors[name]
            assert tuple(info.shape) == weight.shape[::-1]
            raw = file.tensor_bytes(name)
            if weight.ndim == 1:
                assert np.array_equal(raw.view(np.float32), weight)
                continue
            read = dequantize(raw.reshape(len(weight), -1), 8)
            # Half a step of 1/127 of the largest of 32, and the scale's own rounding to f16.
            largest = np.abs(weight.reshape(-1, 32)).max(axis=1, keepdims=True)
            assert np.all(np.abs(read.reshape(-1, 32) - weight.reshape(-1, 32)) <= largest * (0.5 / 127 + 2**-10))
    finally:
        file.close()


def test_the_metadata_says_what_was_trained(checkpoint: Path, exported: Path) -> None:
    _, shape, vocabulary = load_checkpoint(checkpoint)
    file = GGUFFile(exported)
    try:
        assert file.metadata["general.architecture"] == "llama"
        assert file.metadata["llama.block_count"] == shape["n_layer"]
        assert file.metadata["llama.attention.head_count_kv"] == shape["n_head_kv"]
        assert file.metadata["llama.rope.dimension_count"] == 32
        assert file.metadata["tokenizer.ggml.model"] == "gpt2"
        assert file.metadata["tokenizer.ggml.pre"] == "gpt-2"
        assert list(file.metadata["tokenizer.ggml.tokens"]) == list(vocabulary.tokens)
        assert list(file.metadata["tokenizer.ggml.merges"]) == list(vocabulary.merges)
        assert file.metadata["tokenizer.ggml.eos_token_id"] == 0
        assert file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    finally:
        file.close()
