"""ModelConfig: what the metadata says, with its defaults; what it may not say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gguf

from woolly_worker.contract.errors import ModelFileError, UnsupportedArchitecture
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.config import ModelConfig


def config_of(path: Path, **options: Any) -> ModelConfig:
    with GGUFFile(tiny_gguf.write(path / "a.gguf", **options)) as file:
        return ModelConfig.from_gguf(file)


def test_the_sizes_of_the_tiny_model(tiny_model: Path) -> None:
    with GGUFFile(tiny_model) as file:
        config = ModelConfig.from_gguf(file)
        n_params = sum(tensor.n_elements for tensor in file.tensors.values())
    assert (config.architecture, config.name, config.file_type) == ("llama", "tiny", "Q8_0")
    assert (config.n_layer, config.n_embd, config.n_ff, config.n_ctx_train) == (2, 32, 64, 128)
    assert (config.n_head, config.n_head_kv, config.head_dim) == (4, 2, 8)
    assert (config.q_width, config.kv_width, config.rope_pairs) == (32, 16, 4)
    assert (config.n_vocab, config.n_params) == (len(tiny_gguf.spm_vocab()[0]), n_params)
    assert config.rms_eps == pytest.approx(1e-5)
    assert (config.rope.freq_base, config.rope.scaling_type, config.rope.factor) == (10000.0, "none", 1.0)
    assert config.rope.original_context_length == 128
    assert not config.rope.neox


def test_head_size_may_be_given(tmp_path: Path) -> None:
    keys = {"llama.attention.key_length": np.uint32(16), "llama.attention.value_length": np.uint32(16)}
    assert config_of(tmp_path, keys=keys).head_dim == 16


def test_a_size_per_layer_is_one_size_if_all_agree(tmp_path: Path) -> None:
    assert config_of(tmp_path, keys={"llama.feed_forward_length": [64, 64]}).n_ff == 64
    with pytest.raises(UnsupportedArchitecture, match="differs between layers"):
        config_of(tmp_path, keys={"llama.feed_forward_length": [64, 32]})


def test_missing_head_count_kv_means_one_per_head(tmp_path: Path) -> None:
    assert config_of(tmp_path, without=("llama.attention.head_count_kv",)).n_head_kv == 4


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": np.float32(4)}, ("linear", 4.0, 0.0)),
        ({"llama.rope.scaling.factor": np.float32(4)}, ("linear", 4.0, 0.0)),
        ({"llama.rope.scale_linear": np.float32(2)}, ("linear", 2.0, 0.0)),
        ({"llama.rope.scaling.factor": np.float32(0)}, ("none", 1.0, 0.0)),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": np.float32(4)}, ("none", 1.0, 0.0)),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": np.float32(4)}, ("yarn", 4.0, 1.0)),
    ],
)
def test_rope_scaling(keys: dict[str, Any], expected: tuple[str, float, float], tmp_path: Path) -> None:
    rope = config_of(tmp_path, keys=keys).rope
    assert (rope.scaling_type, rope.factor, rope.ext_factor) == expected


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"llama.attention.head_count": np.uint32(0)}, ModelFileError, "head_count' is 0, it must be 1 to"),
        ({"llama.attention.head_count": np.uint32(6)}, ModelFileError, "32 embedding dimensions .* 6 attention heads"),
        ({"llama.attention.head_count_kv": np.uint32(3)}, ModelFileError, "4 attention heads .* 3 key/value heads"),
        ({"llama.attention.key_length": np.uint32(7)}, ModelFileError, "7 dimensions"),
        ({"llama.attention.value_length": np.uint32(4)}, UnsupportedArchitecture, "keys have 8 .* values 4"),
        ({"llama.expert_count": np.uint32(8)}, ModelFileError, "'llama.expert_used_count'"),
        (
            {"llama.expert_count": np.uint32(8), "llama.expert_used_count": np.uint32(9)},
            ModelFileError,
            "computed by 9 experts, and there are 8",
        ),
        (
            {"llama.expert_count": np.uint32(8), "llama.expert_used_count": np.uint32(0)},
            ModelFileError,
            "expert_used_count' is 0",
        ),
        ({"llama.attention.sliding_window": np.uint32(64)}, UnsupportedArchitecture, "sliding-window"),
        ({"llama.rope.dimension_count": np.uint32(4)}, UnsupportedArchitecture, "is 4, the heads have 8"),
        (
            {"llama.rope.scaling.type": "longrope"},
            UnsupportedArchitecture,
            "'longrope' .*; supported: none, linear, yarn",
        ),
        ({"llama.rope.freq_base": np.float32("nan")}, ModelFileError, "is nan"),
        ({"llama.attention.layer_norm_rms_epsilon": np.float32(-1)}, ModelFileError, "is -1.0"),
        ({"llama.block_count": np.uint64(2**40)}, ModelFileError, "1,099,511,627,776"),
        ({"llama.context_length": np.float32(128)}, ModelFileError, "is a float, it should be an integer"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    keys: dict[str, Any], error: type[ModelFileError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as caught:
        config_of(tmp_path, keys=keys)
    assert type(caught.value) is error or error is ModelFileError


def test_expert_count_zero_is_a_dense_model(tmp_path: Path) -> None:
    assert config_of(tmp_path, keys={"llama.expert_count": np.uint32(0)}).n_layer == 2


def test_a_mixture_of_experts(shared_data: Path) -> None:
    with GGUFFile(shared_data / "models" / "stories260K-moe-f32.gguf") as file:
        c = ModelConfig.from_gguf(file)
    assert (c.n_expert, c.n_expert_used, c.n_ff) == (4, 2, 172)


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"a\.gguf: the architecture 'mammoth' .*; supported: llama"):
        config_of(tmp_path, architecture="mammoth")


def test_without_a_tokenizer_vocab_size_counts(tmp_path: Path) -> None:
    # Given a file whose vocabulary is only a number
    path = tiny_gguf.write(tmp_path / "a.gguf", keys={"llama.vocab_size": np.uint32(77)})
    path.write_bytes(path.read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    with GGUFFile(path) as file:
        assert ModelConfig.from_gguf(file).n_vocab == 77


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stories260K-f32", ("F32", 5, 64, 8, 4, 8, 172, 512, 512, 260_032)),
        ("babyllama-wide-Q4_K_M", ("Q4_K_M", 5, 256, 16, 8, 16, 512, 361, 256, 3_136_768)),
        ("llama-2-tiny-random", ("F16", 1, 8, 2, 2, 4, 32, 32000, 4096, 513_048)),
    ],
)
def test_models_of_others(name: str, expected: tuple[object, ...], shared_data: Path) -> None:
    with GGUFFile(shared_data / "models" / f"{name}.gguf") as file:
        c = ModelConfig.from_gguf(file)
    sizes = (c.file_type, c.n_layer, c.n_embd, c.n_head, c.n_head_kv, c.head_dim, c.n_ff, c.n_vocab, c.n_ctx_train)
    assert (*sizes, c.n_params) == expected


@pytest.mark.parametrize("name", ["stories260K-qwen2-f32", "random-gpt2-f32"])
def test_models_of_other_architectures_are_refused(name: str, shared_data: Path) -> None:
    with GGUFFile(shared_data / "models" / f"{name}.gguf") as file, pytest.raises(UnsupportedArchitecture):
        ModelConfig.from_gguf(file)
