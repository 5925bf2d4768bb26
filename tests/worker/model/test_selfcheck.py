"""The check before serving: every type of tensor passes it, and whatever computes wrong is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import shaped_gguf
import wrong_ops
from gguf import GGMLQuantizationType as Type

from woolly_worker.contract.errors import KernelMismatch
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.gguf.types import GGMLType
from woolly_worker.kernels import experts, rmsnorm, swiglu
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.model import program
from woolly_worker.model.sample_blocks import SAMPLE_ROWS, sample
from woolly_worker.model.selfcheck import check_operations
from woolly_worker.model.transformer import kv_layout
from woolly_worker.model.weights import open_model
from woolly_worker.queue.loading import load_model
from woolly_worker.settings import WorkerSettings


def check(path: Path, kv_dtype: str = "f16") -> None:
    config, weights = open_model(path)
    with weights.file:
        check_operations(config, weights, kv_layout(config, kv_dtype))


@pytest.fixture
def q8_0(tmp_path: Path) -> Path:
    return shaped_gguf.write(tmp_path / "model.gguf", Type.Q8_0)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_samples_mean_what_the_gguf_package_says(name: str) -> None:
    """Without its converters, which are never imported; and of a size at which errors show."""
    drawn = sample(GGMLType[name], np.random.default_rng(2))
    expected = gguf.quants.dequantize(drawn.rows, Type[name]).astype(np.float32)
    assert np.array_equal(drawn.weights, expected.reshape(drawn.weights.shape))
    assert drawn.matrix.n_bytes == SAMPLE_ROWS * drawn.matrix.row_bytes
    assert 0.25 <= np.abs(drawn.weights).max() < 4


@pytest.mark.parametrize("kind", sorted(shaped_gguf.SHAPES))
def test_a_model_of_each_type_passes(kind: Type, tmp_path: Path) -> None:
    check(shaped_gguf.write(tmp_path / "model.gguf", kind))


def test_all_types_in_one_model_pass_with_f32_keys(tmp_path: Path) -> None:
    mixed = {"attn_v": Type.F16, "ffn_down": Type.Q6_K, "attn_q": Type.Q8_0, "attn_k": Type.BF16}
    check(shaped_gguf.write(tmp_path / "model.gguf", Type.Q4_K, mixed=mixed), "f32")


@pytest.mark.parametrize("matmul", [wrong_ops.matmul_whose_rows_differ, wrong_ops.matmul_of_the_first_block])
def test_a_wrong_product_is_named(matmul: Any, q8_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "Q8_0", replace(FORMATS["Q8_0"], matmul=matmul))
    with pytest.raises(KernelMismatch, match=f"{matmul.__name__}, compiled for {CPU.level}"):
        check(q8_0)


def break_embed(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(FORMATS, "Q8_0", replace(FORMATS["Q8_0"], embed=wrong_ops.nothing))


def break_attention(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(program._KV_OPS, "f16", (program._KV_OPS["f16"][0], wrong_ops.nothing))


def break_rope(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(program._KV_OPS, "f16", (wrong_ops.nothing, program._KV_OPS["f16"][1]))


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (break_embed, "nothing"),
        (break_rope, "nothing"),
        (break_attention, "rope_and_file_f16 or nothing"),
        (lambda patch: patch.setattr(rmsnorm, "norm", wrong_ops.nothing), "norm"),
        (lambda patch: patch.setattr(swiglu, "swiglu", wrong_ops.nothing), "swiglu"),
        (lambda patch: patch.setattr(swiglu, "quantize", wrong_ops.nothing), "matmul_q8_0"),
    ],
)
def test_every_operation_is_looked_at(
    spoil: Callable[[pytest.MonkeyPatch], None], name: str, q8_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    with pytest.raises(KernelMismatch, match=f"the operation {name}, compiled for"):
        check(q8_0)


@pytest.mark.parametrize("operation", ["route", "gather", "apart", "combine"])
def test_every_operation_of_a_mixture_is_looked_at(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shaped_gguf.write(tmp_path / "model.gguf", Type.Q8_0, shaped_gguf.MIXTURE)
    check(path)
    monkeypatch.setattr(experts, operation, wrong_ops.nothing)
    with pytest.raises(KernelMismatch, match=f"the operation .*{operation}.*, compiled for"):
        check(path)


def test_a_model_with_a_wrong_operation_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swiglu, "swiglu", wrong_ops.nothing)
    with pytest.raises(KernelMismatch, match="swiglu"):
        load_model(WorkerSettings(model=DEMO_MODEL, threads=1), lambda events: None)
