"""The table of quant blocks agrees with gguf-py's, and with the blocks that llama.cpp wrote."""

import json
from pathlib import Path

import gguf
import pytest

from woolly_worker.gguf.types import FILE_TYPE_NAMES, SUPPORTED_TYPES, GGMLType


def test_every_type_of_gguf_py_is_known_with_its_block() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {int(kind): (kind.name, kind.block_size, kind.block_bytes) for kind in GGMLType}
    assert {number: ours.get(number) for number in theirs} == theirs


def test_file_types_have_the_names_of_gguf_py() -> None:
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: name for number, name in theirs.items() if name != "GUESSED"} == FILE_TYPE_NAMES


def test_blocks_that_llama_cpp_wrote_have_our_sizes(shared_data: Path) -> None:
    blocks = json.loads((shared_data / "golden" / "quant-blocks.json").read_text())
    described = {name: entry for name, entry in blocks.items() if isinstance(entry, dict) and "ggml_type" in entry}
    assert described
    for entry in described.values():
        kind = GGMLType(entry["ggml_type"])
        assert (kind.block_size, kind.block_bytes) == (entry["block_elements"], entry["block_bytes"])


def test_rows_are_whole_blocks() -> None:
    assert GGMLType.Q4_K.row_bytes(2048) == 8 * 144
    with pytest.raises(AssertionError):
        GGMLType.Q4_K.row_bytes(172)


def test_the_first_supported_types() -> None:
    assert {kind.name for kind in SUPPORTED_TYPES} >= {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"}
