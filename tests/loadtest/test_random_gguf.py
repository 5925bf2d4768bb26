"""The generator of random models writes files that load, with weights of the promised size."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from random_gguf import QUANTS

from woolly_worker.model.config import ModelConfig
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.model.weights import Weights, open_model

SCRIPT = Path(__file__).resolve().parents[2] / "loadtest" / "engine" / "random_gguf.py"


def write_model(out: Path, *arguments: str) -> None:
    command = [sys.executable, str(SCRIPT), str(out), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def generate(out: Path, *arguments: str) -> tuple[ModelConfig, Weights]:
    write_model(out, *arguments)
    return open_model(out)


MIXES = ["F16", "Q8_0", "Q4_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0"]


@pytest.mark.parametrize("quant", MIXES)
def test_a_file_of_every_mix_loads(quant: str, tmp_path: Path) -> None:
    config, weights = generate(tmp_path / "a.gguf", "160m", quant, "--layers", "3", "--n-vocab", "500")
    with weights.file as file:
        assert (config.n_embd, config.n_layer, config.n_vocab, config.file_type) == (768, 3, 500, quant)
        for matrix in (weights.layers[0].attn_q, weights.layers[2].ffn_down, weights.output):
            kind = gguf.GGMLQuantizationType[matrix.type.name]
            raw = file.tensor_bytes(matrix.name).reshape(matrix.n_rows, matrix.row_bytes)
            values = raw.view(np.float16) if quant == "F16" else gguf.quants.dequantize(raw, kind)
            assert values.astype(np.float32).std() * matrix.n_cols**0.5 == pytest.approx(1, rel=0.1)


def values_of(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


@pytest.mark.parametrize("quant", sorted(QUANTS))
def test_weights_of_every_mix_have_unit_gain(quant: str, tmp_path: Path) -> None:
    """Read with the gguf package, because Woolly need not know the type. Scales that are powers of two are off by up
    to a factor of 1.41; the weights of IQ4_NL have a small mean."""
    path = tmp_path / "a.gguf"
    write_model(path, "160m", quant, "--layers", "1", "--n-vocab", "500")
    wanted = {QUANTS[quant].base, QUANTS[quant].output}
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 1:
            continue
        wanted.discard(tensor.tensor_type)
        values = values_of(tensor)
        gain = values.std() * float(tensor.shape[0]) ** 0.5
        assert gain == pytest.approx(1, rel=0.45 if tensor.tensor_type.name == "MXFP4" else 0.1), tensor.name
        assert abs(values.mean()) < 0.15 * values.std()
    assert not wanted


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_model(path, "moe", "Q4_K_M", "--layers", "1", "--n-vocab", "500")
    reader = gguf.GGUFReader(path)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}  # columns first
    assert shapes["blk.0.ffn_gate_inp.weight"] == [2048, 8]
    assert shapes["blk.0.ffn_up_exps.weight"] == [2048, 1024, 8]
    assert shapes["blk.0.ffn_down_exps.weight"] == [1024, 2048, 8]
    assert "blk.0.ffn_up.weight" not in shapes
    counts = [reader.fields[f"llama.expert_{key}"].contents() for key in ("count", "used_count")]
    assert counts == [8, 2]
    [router] = [tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_gate_inp.weight"]
    assert values_of(router).std() * 2048**0.5 == pytest.approx(1, rel=0.1)


def test_the_q4_k_m_mix_gives_some_matrices_more_bits(tmp_path: Path) -> None:
    _, weights = generate(tmp_path / "a.gguf", "160m", "Q4_K_M", "--layers", "8", "--n-vocab", "500")
    kinds = [layer.ffn_down.type.name for layer in weights.layers]
    assert kinds == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert weights.output.type.name == "Q6_K"
    weights.file.close()


def test_the_generated_vocabulary_is_usable(tmp_path: Path) -> None:
    _, weights = generate(tmp_path / "a.gguf", "15m", "Q8_0", "--layers", "1", "--n-vocab", "2000")
    with weights.file as file:
        tokenizer = Tokenizer.from_gguf(file)
    assert tokenizer.n_vocab == 2000
    for text in ("The quick brown fox, 42 times!", "zwölf Wölfe 🐺\n\ttab"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the quick brown fox")) < 12


def test_the_vocabulary_of_another_file(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    generate(source, "15m", "Q8_0", "--layers", "1", "--n-vocab", "700")[1].file.close()
    config, weights = generate(tmp_path / "a.gguf", "15m", "Q4_0", "--layers", "1", "--vocab", str(source))
    with weights.file as file:
        tokenizer = Tokenizer.from_gguf(file)
    assert config.n_vocab == tokenizer.n_vocab == 700
    assert tokenizer.decode(tokenizer.encode("the wool")) == "the wool"


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        generate(tmp_path / name, "15m", "Q8_0", "--layers", "1", "--n-vocab", "400")[1].file.close()
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
