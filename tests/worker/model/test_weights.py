"""Weights: every tensor in its place, shape and type, or an error that names what disagrees."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_gguf
from gguf import GGMLQuantizationType as Type

from woolly_worker.contract.errors import ModelFileError, UnsupportedQuantization
from woolly_worker.gguf.types import GGMLType
from woolly_worker.model.weights import Weights, load_weights, open_model


def weights_of(path: Path, **options: Any) -> Weights:
    return open_model(tiny_gguf.write(path / "a.gguf", **options))[1]


def test_matrices_lie_in_the_file(tiny_model: Path) -> None:
    config, weights = open_model(tiny_model)
    with weights.file as file:
        down = weights.layers[1].ffn_down
        assert (down.name, down.type) == ("blk.1.ffn_down.weight", GGMLType.Q8_0)
        assert (down.n_rows, down.n_cols, down.row_bytes, down.n_bytes) == (32, 64, 68, 32 * 68)
        assert file.address <= down.address
        assert down.address + down.n_bytes <= file.address + file.n_bytes
        offset = down.address - file.address
        assert file.data[offset : offset + 68].tobytes() == file.tensor_bytes(down.name)[:68].tobytes()
        assert len(weights.layers) == config.n_layer
        assert weights.output.name == "output.weight"
        assert weights.rope_freqs is None


def test_a_tied_output_is_the_embedding(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, tied=True)
    assert weights.output is weights.token_embd


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_norms_become_f32(dtype: type, tmp_path: Path) -> None:
    values = np.linspace(0.5, 2, tiny_gguf.N_EMBD).astype(dtype)
    weights = weights_of(tmp_path, tensors={"output_norm.weight": values})
    assert weights.output_norm.dtype == np.float32
    assert weights.output_norm.tolist() == values.astype(np.float32).tolist()


def test_bf16_norms_become_f32(tmp_path: Path) -> None:
    # Given a norm in BF16, which the writer only does for raw bytes: the upper halves of f32
    values = np.array([1.0, -0.5, 3.140625, 0.0] * 8, np.float32)
    raw = gguf.quants.quantize(values.reshape(1, -1), Type.BF16)
    path = tmp_path / "a.gguf"
    tiny_gguf.write(path, tensors={"output_norm.weight": values})
    _, weights = open_model(path)
    info = weights.file.tensors["output_norm.weight"]
    data = bytearray(path.read_bytes())
    weights.file.close()
    # When its type is changed in place
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    data[at : at + 4] = int(GGMLType.BF16).to_bytes(4, "little")
    data[info.offset : info.offset + 64] = raw.tobytes()
    path.write_bytes(data)
    # Then the numbers are the same
    assert open_model(path)[1].output_norm.tolist() == values.tolist()


def test_rope_frequency_factors(tmp_path: Path) -> None:
    factors = np.array([1, 2, 4, 8], np.float32)
    weights = weights_of(tmp_path, tensors={"rope_freqs.weight": factors})
    assert weights.rope_freqs is not None
    assert weights.rope_freqs.tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0])
def test_types_that_are_computed_with(kind: Type, tmp_path: Path) -> None:
    assert weights_of(tmp_path, kind=kind).layers[0].attn_q.type.name == kind.name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"without": ("blk.1.attn_v.weight",)}, "'blk.1.attn_v.weight' is missing"),
        ({"without": ("token_embd.weight",)}, "'token_embd.weight' is missing"),
        ({"without": ("output_norm.weight",)}, "'output_norm.weight' is missing"),
        (
            {"tensors": {"blk.0.attn_k.weight": np.zeros((8, 32), np.float32)}},
            r"'blk.0.attn_k.weight' has the shape \(32, 8\), expected is \(32, 16\)",
        ),
        ({"tensors": {"output_norm.weight": np.ones(31, np.float32)}}, r"\(31,\), expected is \(32,\)"),
        ({"tensors": {"rope_freqs.weight": np.ones(3, np.float32)}}, r"\(3,\), expected is \(4,\)"),
        (
            {"tensors": {"blk.0.attn_q.bias": np.ones(32, np.float32)}},
            "1 tensors have no place in a llama model of 2 layers .* 'blk.0.attn_q.bias'",
        ),
        ({"keys": {"llama.block_count": np.uint32(1)}}, "no place .* 1 layers"),
        ({"keys": {"llama.block_count": np.uint32(3)}}, "'blk.2.attn_norm.weight' is missing"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        weights_of(tmp_path, **options)
    assert str(caught.value).startswith("a.gguf: ")


def test_tensors_that_say_nothing_new_are_passed_over(tmp_path: Path) -> None:
    weights_of(tmp_path, tensors={"blk.0.attn_rot_embd.weight": np.ones(4, np.float32)})


def test_an_unsupported_type_names_the_supported_ones(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf", kind=Type.F32)
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    data[at : at + 4] = int(GGMLType.I32).to_bytes(4, "little")  # as long as F32
    path.write_bytes(data)
    with pytest.raises(UnsupportedQuantization, match=r"is I32; supported are F32, F16, .*Q4_K, .*Q6_K"):
        open_model(path)


def test_a_quantised_norm_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf")
    data = bytearray(path.read_bytes())
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    data[at : at + 4] = int(GGMLType.Q8_0).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnsupportedQuantization, match=r"vector 'output_norm\.weight' is Q8_0"):
        open_model(path)


def test_the_set_of_types_can_be_narrowed(tiny_model: Path) -> None:
    config, weights = open_model(tiny_model)
    with weights.file as file, pytest.raises(UnsupportedQuantization, match=r"is Q8_0; supported are F32$"):
        load_weights(file, config, frozenset({GGMLType.F32}))


MIXES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_K_M")


@pytest.mark.parametrize("name", ["stories260K-Q8_0", *(f"babyllama-wide-{mix}" for mix in MIXES)])
def test_models_of_others(name: str, shared_data: Path) -> None:
    config, weights = open_model(shared_data / "models" / f"{name}.gguf")
    with weights.file:
        assert len(weights.layers) == config.n_layer
        if name == "stories260K-Q8_0":
            assert weights.layers[0].ffn_down.type is GGMLType.F16  # 172 is no multiple of 32
