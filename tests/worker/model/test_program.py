"""The step program as a list: which operations, in which order, with barriers where results are read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shaped_gguf
from gguf import GGMLQuantizationType as Type
from step_harness import Bench

from woolly_worker.kernels import matmul
from woolly_worker.kernels.activations import Activation, row_bytes
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.team import OP_ARGS, OP_BARRIER
from woolly_worker.memory.activations import Rows
from woolly_worker.memory.kv_cache import KVCache, KVLayout
from woolly_worker.model.program import LEAST_TAKE_BYTES, Program, form_for, rows_for
from woolly_worker.model.weights import Matrix, Weights, open_model


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Weights]:
    mixed = {"attn_v": Type.F16, "ffn_down": Type.Q6_K, "attn_q": Type.Q8_0}
    _, weights = open_model(shaped_gguf.write(tmp_path / "model.gguf", Type.Q4_K, mixed=mixed))
    yield weights
    weights.file.close()


def empty_program(n_members: int = 1) -> Program:
    return Program(n_members, KVCache(KVLayout(2, 2, 64, "f16"), 4), n_head=4, head_dim=64, n_ctx=128)


def test_a_buffer_has_the_forms_its_readers_want(weights: Weights) -> None:
    layer = weights.layers[0]
    assert form_for(layer.attn_v) == Activation.F32
    rows = rows_for(3, 256, layer.attn_q, layer.attn_k, layer.attn_v)
    assert set(rows.forms) == {int(Activation.Q8), int(Activation.Q8K)}
    assert rows.forms[int(Activation.Q8)].stride == -(-row_bytes(Activation.Q8, 256) // 64) * 64
    assert not rows_for(3, 256).forms


def test_a_layer_s_operations_and_their_barriers(tmp_path: Path) -> None:
    """Where an operation reads what the one before writes, a barrier stands between them."""
    with Bench(shaped_gguf.write(tmp_path / "model.gguf", Type.Q4_K)) as bench:
        program = bench.transformer._program
        names = [op.__name__ for op, _, _ in program._ops]
        barriers = [bool(barrier) for _, _, barrier in program._ops]
    layer = [
        ("norm", True),
        ("matmul_q4_k", False),  # q, k and v read the same row and write different ones
        ("matmul_q4_k", False),
        ("matmul_q4_k", True),
        ("rope_and_file_f16", True),
        ("attention_f16", True),
        ("quantize", True),
        ("matmul_q4_k", True),
        ("norm", True),
        ("matmul_q4_k", False),
        ("matmul_q4_k", True),
        ("swiglu", True),
        ("matmul_q4_k", True),
    ]
    whole = [("embed_q4_k", True), *layer, *layer, ("norm", True), ("matmul_q4_k", True)]
    assert list(zip(names, barriers, strict=True)) == whole


def test_floats_need_no_quantised_forms(tmp_path: Path) -> None:
    with Bench(shaped_gguf.write(tmp_path / "model.gguf", Type.F32)) as bench:
        assert "quantize" not in [op.__name__ for op, _, _ in bench.transformer._program._ops]


def test_each_operation_is_compiled_once(weights: Weights) -> None:
    program = empty_program()
    x, h = rows_for(4, 256), rows_for(4, 256, weights.layers[0].ffn_gate)
    gate = rows_for(4, 512)
    for layer in weights.layers:
        program.norm(x, layer.attn_norm, 1e-5, into=h)
        program.matmul(layer.ffn_gate, h, into=gate)
    assert [op.__name__ for op in program.operations()] == ["norm", "matmul_q4_k"]
    array = program.array()
    assert len(array) == 4
    assert (array[:, OP_BARRIER] == 1).all()
    assert len(set(array[:, OP_ARGS].tolist())) == 4


@pytest.mark.parametrize("n_members", [1, 2, 7])
def test_work_is_shared_in_whole_panels(weights: Weights, n_members: int) -> None:
    """Nobody takes more than half of a fair part at first, nor less than LEAST_TAKE_BYTES at the end."""
    program = empty_program(n_members)
    x = rows_for(4, 256, weights.output)
    for matrix in (weights.output, weights.layers[0].ffn_gate, weights.layers[0].attn_k):
        program.matmul(matrix, x, into=rows_for(4, matrix.n_rows))
    program.array()
    for record in program._matmul_records:
        least = int(record[matmul.LEAST_TAKE])
        assert least % matmul.PANEL_ROWS == 0
        assert least * record[matmul.ROW_BYTES] >= LEAST_TAKE_BYTES
        assert (least - matmul.PANEL_ROWS) * record[matmul.ROW_BYTES] < LEAST_TAKE_BYTES
        assert record[matmul.SHARE] == 2 * n_members


def test_scratch_has_room_for_the_widest_matrix(weights: Weights) -> None:
    program = empty_program(3)
    layer = weights.layers[0]
    readers: tuple[Matrix, ...] = (layer.ffn_gate, layer.ffn_down)
    for matrix in readers:
        program.matmul(matrix, rows_for(2, matrix.n_cols, matrix), into=rows_for(2, matrix.n_rows))
    program.array()
    needed = max(FORMATS[matrix.type.name].scratch_bytes(matrix.n_cols, 2) for matrix in readers)
    strides = {int(record[matmul.SCRATCH_STRIDE]) for record in program._matmul_records}
    assert len(strides) == 1
    assert strides.pop() >= needed
    assert all(record[matmul.SCRATCH] % 64 == 0 for record in program._matmul_records)


def test_norm_weights_are_padded_with_zeros(weights: Weights) -> None:
    program = empty_program()
    x = Rows(2, 5)
    program.norm(x, np.ones(5, np.float32), 1e-5, into=Rows(2, 5))
    kept = [array for array in program._kept if isinstance(array, np.ndarray) and len(array) == 16]
    assert [array.tolist() for array in kept] == [[1.0] * 5 + [0.0] * 11]
