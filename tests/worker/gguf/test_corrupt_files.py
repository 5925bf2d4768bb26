"""No file, however damaged, crashes the process, hangs, or makes it allocate what a length field claims.

Errors surface in three places (reader, config, weights or vocabulary), so all of them are run, as a worker would.
"""

import json
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from woolly_worker.contract.errors import ModelFileError
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.model.weights import open_model

N_FILES = 33
MAX_SECONDS = 2.0  # a correct reader needs milliseconds; the rest is for busy machines
MAX_BYTES = 2 << 20


def load(path: Path) -> None:
    """Everything a worker does with a file before it computes."""
    _config, weights = open_model(path)
    try:
        Tokenizer.from_gguf(weights.file)
    finally:
        weights.file.close()


def refused(path: Path) -> str:
    """The message with which the file is refused, having looked at the time and memory that took."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ModelFileError) as caught:
            load(path)
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < MAX_SECONDS
    assert peak < MAX_BYTES
    return str(caught.value)


# A part of the message that shows the right thing was found; numbers where two disagree.
EXPECTED = {
    "01-empty": "empty",
    "02-magic-ggml": "GGML",
    "03-only-magic": "needs 4 bytes at offset 4, the file has 0 left",
    "04-version-0": "version 0, supported are 2 and 3",
    "05-version-99": "version 99",
    "06-big-endian-header": "big-endian",
    "07-kv-count-huge": "4,611,686,018,427,387,904",
    "08-tensor-count-huge": "1,152,921,504,606,846,976",
    "09-truncated-in-kv": "room for",
    "10-key-length-huge": "4,611,686,018,427,387,904",
    "11-string-length-past-end": "1,099,511,627,776",
    "12-kv-type-unknown": "unknown value type 99",
    "13-array-length-huge": "2,305,843,009,213,693,952",
    "14-array-of-unknown-type": "unknown value type 77",
    "15-duplicate-key": "'llama.block_count' is there twice",
    "16-alignment-zero": "'general.alignment' is 0",
    "17-alignment-not-power-of-two": "'general.alignment' is 24",
    "18-tensor-ndims-9": "9 dimensions",
    "19-tensor-dim-negative": "18446744073709551615",
    "20-tensor-size-overflow": "8589934592",
    "21-tensor-type-unknown": "unknown type 999",
    "22-tensor-offset-past-end": "the file at 26,048",
    "23-tensor-offset-misaligned": "8,809",
    "24-duplicate-tensor-name": "two tensors named 'blk.0.ffn_gate.weight'",
    "25-truncated-in-data": "the file at 17,048",
    "26-row-not-block-multiple": "33",
    "27-missing-block-count": "'llama.block_count'",
    "28-missing-tensor": "'blk.0.ffn_down.weight' is missing",
    "29-wrong-tensor-shape": "(32, 8), expected is (32, 16)",
    "30-unknown-architecture": "'woollymammoth' is not supported; supported: llama",
    "31-architecture-wrong-type": "'general.architecture' is an integer",
    "32-missing-architecture": "'general.architecture'",
    "33-vocab-size-mismatch": "(32, 259), expected is (32, 257)",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_file_is_refused(name: str, shared_data: Path) -> None:
    message = refused(shared_data / "corrupt-gguf" / f"{name}.gguf")
    assert EXPECTED[name] in message
    assert message.startswith(f"{name}.gguf: ")


def test_the_list_of_broken_files_is_complete(shared_data: Path) -> None:
    index = json.loads((shared_data / "corrupt-gguf" / "index.json").read_text())
    rejected = {Path(entry["file"]).stem for entry in index if entry["expected"] == "reject"}
    assert rejected == EXPECTED.keys()
    assert len(rejected) == N_FILES


def test_the_file_they_were_made_of_is_accepted(shared_data: Path) -> None:
    load(shared_data / "corrupt-gguf" / "00-valid.gguf")


# The same for a file of our own, which is always there.


def test_the_tiny_model_is_accepted(tiny_model: Path, tiny_bpe_model: Path) -> None:
    load(tiny_model)
    load(tiny_bpe_model)


@pytest.mark.parametrize("position", [8, 16])
@pytest.mark.parametrize("count", [2**62, 2**32, 10**6])
def test_counts_are_compared_with_the_file(position: int, count: int, tiny_model: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[position : position + 8] = struct.pack("<Q", count)
    (tmp_path / "a.gguf").write_bytes(data)
    assert f"{count:,}" in refused(tmp_path / "a.gguf")


def load_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        load(path)
    except ModelFileError as error:
        problem = error.message
        assert 0 < len(problem) < 1000


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.gguf"


damage = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@damage
@given(data=st.data())
def test_truncated_anywhere(data: st.DataObject, tiny_model: Path, scratch: Path) -> None:
    whole = tiny_model.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    scratch.write_bytes(whole[:length])
    with pytest.raises(ModelFileError):
        load(scratch)


@damage
@given(data=st.data(), bpe=st.booleans())
def test_bytes_flipped_anywhere(
    data: st.DataObject, bpe: bool, tiny_model: Path, tiny_bpe_model: Path, scratch: Path
) -> None:
    damaged = bytearray((tiny_bpe_model if bpe else tiny_model).read_bytes())
    head = damaged.index(b"output_norm.weight")  # most flips where something reads them
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, head) | st.integers(0, len(damaged) - 1))
        damaged[where] = data.draw(st.integers(0, 255))
    load_bytes(scratch, bytes(damaged))


@damage
@given(data=st.data())
def test_whole_fields_replaced(data: st.DataObject, tiny_model: Path, scratch: Path) -> None:
    """Lengths, counts and dimensions are eight bytes: extreme ones at any place."""
    damaged = bytearray(tiny_model.read_bytes())
    where = data.draw(st.integers(0, damaged.index(b"output_norm.weight") + 60))
    number = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]))
    damaged[where : where + 8] = struct.pack("<Q", number)
    load_bytes(scratch, bytes(damaged))


@damage
@given(st.binary(max_size=200))
@example(b"GGUF\x03\0\0\0")
def test_anything_at_all(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    with pytest.raises(ModelFileError):
        load(scratch)
