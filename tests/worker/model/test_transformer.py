"""The forward pass against NumPy in float64, over shapes and variants, and what a transformer says about itself."""

from pathlib import Path
from typing import Any

import llama_reference
import numpy as np
import pytest
import shaped_gguf
from gguf import GGMLQuantizationType as Type
from shaped_gguf import Shape
from step_harness import Bench

from woolly_worker.kernels.compile_ahead import all_operations
from woolly_worker.kernels.team import TEAM_OPERATIONS
from woolly_worker.memory.kv_cache import KVCache, blocks_for
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model

IDS = np.random.default_rng(1).integers(0, 60, 70).tolist()

SHAPES = {
    "one of everything": Shape(n_embd=2, n_head=1, n_head_kv=1, n_ff=1, n_vocab=60),
    "odd": shaped_gguf.ODD,
    "grouped": Shape(n_embd=96, n_head=12, n_head_kv=3, n_ff=80, n_vocab=64),
    "one key head for twelve": shaped_gguf.LEGACY,
    "wide heads": Shape(n_embd=64, n_head=2, n_head_kv=1, n_ff=64, n_vocab=61, head_dim=128),
    "heads of eighty": Shape(n_embd=160, n_head=2, n_head_kv=2, n_ff=48, n_vocab=61),
    "experts": Shape(n_embd=70, n_head=5, n_head_kv=5, n_ff=33, n_vocab=61, n_expert=5, n_expert_used=3),
    "one expert of one": Shape(n_embd=32, n_head=2, n_head_kv=2, n_ff=48, n_vocab=60, n_expert=1, n_expert_used=1),
    "five layers": Shape(n_embd=32, n_layer=5, n_head=2, n_head_kv=2, n_ff=64, n_vocab=60),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "another base": {"rope": {"freq_base": 500000.0}},
    "linear scaling": {"rope": {"scaling.type": "linear", "scaling.factor": 4.0}},
    "frequency factors": {"rope_factors": np.linspace(1, 8, 7)},
}


def assert_close(path: Path, *, f32_kv: bool = True) -> None:
    """In f32 throughout, rounding adds up to some 1e-6 of the logits' size for each layer; 1e-4 leaves room."""
    exact = llama_reference.logits(path, IDS)
    with Bench(path, kv_dtype="f32" if f32_kv else "f16") as bench:
        got = bench.logits(IDS)
    assert np.abs(got - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, tmp_path: Path) -> None:
    assert_close(shaped_gguf.write(tmp_path / "model.gguf", Type.F32, SHAPES[name]))


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, tmp_path: Path) -> None:
    assert_close(shaped_gguf.write(tmp_path / "model.gguf", Type.F32, shaped_gguf.ODD, **VARIANTS[name]))


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16], ids=lambda kind: kind.name)
def test_half_precision_weights_are_exact(kind: Type, tmp_path: Path) -> None:
    """Only the file is rounded: activations stay f32."""
    assert_close(shaped_gguf.write(tmp_path / "model.gguf", kind))


@pytest.mark.parametrize(
    "kind", [Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q6_K, Type.IQ3_XXS, Type.IQ2_XS], ids=lambda kind: kind.name
)
def test_quantised_weights(kind: Type, tmp_path: Path) -> None:
    """Activations are rounded to 8 bits, up to 1/254 of a block's largest value, in every product of two layers. Errors
    of many terms cancel: of the logits' spread some 2 percent are left on average, and a wrong sign anywhere gives 100.
    """
    path = shaped_gguf.write(tmp_path / "model.gguf", kind)
    exact = llama_reference.logits(path, IDS)
    with Bench(path) as bench:
        got = bench.logits(IDS)
    assert np.abs(got - exact).mean() < 0.04 * exact.std()
    assert np.abs(got - exact).max() < 0.5 * exact.std()


def test_half_precision_keys_and_values(tmp_path: Path) -> None:
    """f16 has 11 bits: each key and value is off by 2**-12 of itself, 2.5e-4."""
    path = shaped_gguf.write(tmp_path / "model.gguf", Type.F32)
    exact = llama_reference.logits(path, IDS)
    with Bench(path) as bench:
        got = bench.logits(IDS)
    assert np.abs(got - exact).max() < 2e-3 * np.abs(exact).max()
    assert np.abs(got - exact).max() > 1e-6  # they are f16 indeed


def test_heads_are_padded_to_whole_vectors(tmp_path: Path) -> None:
    config, weights = open_model(shaped_gguf.write(tmp_path / "model.gguf", Type.F32, shaped_gguf.ODD))
    assert config.head_dim == 14
    assert kv_layout(config).head_dim == 16
    assert kv_layout(config, "q8_0").head_dim == 32
    with pytest.raises(ValueError, match="q5_0"):
        kv_layout(config, "q5_0")  # type: ignore[arg-type]
    weights.file.close()


def test_progress_of_compilation_is_reported(tmp_path: Path) -> None:
    config, weights = open_model(shaped_gguf.write(tmp_path / "model.gguf", Type.F32))
    reports: list[tuple[int, int]] = []
    transformer = Transformer(
        config,
        weights,
        KVCache(kv_layout(config), blocks_for(64)),
        n_threads=1,
        max_step_tokens=4,
        max_logit_rows=1,
        max_slots=1,
        n_ctx=64,
        on_compile=lambda n_ready, n_all: reports.append((n_ready, n_all)),
    )
    needed = [*transformer._program.operations(), *TEAM_OPERATIONS]
    n_all = len(needed)
    assert reports == [(n_ready, n_all) for n_ready in range(n_all + 1)]
    assert transformer.scratch_bytes > 0
    transformer.close()
    weights.file.close()


@pytest.mark.parametrize("name", ["grouped", "experts"])
def test_helpers_know_what_a_program_needs(tmp_path: Path, name: str) -> None:
    with Bench(shaped_gguf.write(tmp_path / "model.gguf", Type.F32, SHAPES[name])) as bench:
        needed = [*bench.transformer._program.operations(), *TEAM_OPERATIONS]
    assert {op.__name__: op for op in needed}.items() <= all_operations().items()


def test_a_closed_transformer_refuses_to_step(tmp_path: Path) -> None:
    bench = Bench(shaped_gguf.write(tmp_path / "model.gguf", Type.F32), n_threads=2)
    bench.close()
    with pytest.raises(RuntimeError, match="closed"):
        bench.transformer.step()


def test_a_step_makes_no_new_memory(tmp_path: Path) -> None:
    """The logits are a view of the same buffer every time, and Python's own allocations do not grow."""
    import tracemalloc

    with Bench(shaped_gguf.write(tmp_path / "model.gguf", Type.F32)) as bench:
        bench.logits(IDS[:4])
        batch = bench.transformer.batch
        batch.n_tokens = batch.n_logit_rows = 1
        first = bench.transformer.step()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            again = bench.transformer.step()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert again.ctypes.data == first.ctypes.data
        assert grown < 2000
