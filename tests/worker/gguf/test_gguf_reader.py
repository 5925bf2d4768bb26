"""The reader sees what another writer wrote, and refuses what does not hold together, naming the numbers."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf

from woolly_worker.contract.errors import GGUFFormatError, ModelFileError
from woolly_worker.gguf.metadata import describe
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.gguf.types import GGMLType

VALUES = {
    "t.u8": np.uint8(200),
    "t.i8": np.int8(-100),
    "t.u16": np.uint16(60000),
    "t.i16": np.int16(-30000),
    "t.u32": np.uint32(4_000_000_000),
    "t.i32": np.int32(-2_000_000_000),
    "t.u64": np.uint64(2**63 + 1),
    "t.i64": np.int64(-(2**62)),
    "t.f32": np.float32(0.5),
    "t.f64": np.float64(0.1),
    "t.yes": True,
    "t.text": "wool 🧶",
}


def test_every_value_type_comes_back(tmp_path: Path) -> None:
    path = tiny_gguf.write(
        tmp_path / "a.gguf",
        keys=VALUES
        | {"t.ints": [1, -2, 3], "t.floats": [0.5, 1.5], "t.words": ["a", "", "ä"], "t.flags": [True, False]},
    )
    with GGUFFile(path) as file:
        for key, value in VALUES.items():
            assert file.metadata[key] == value
            assert type(file.metadata[key]) in (int, float, bool, str)
        assert file.metadata.numbers("t.ints").tolist() == [1, -2, 3]
        assert file.metadata.numbers("t.floats").tolist() == [0.5, 1.5]
        assert file.metadata.strings("t.words") == ["a", "", "ä"]
        assert file.metadata["t.flags"].tolist() == [True, False]  # type: ignore[union-attr]
        assert (file.version, file.alignment) == (3, 32)


def test_tensors_are_found_where_gguf_py_finds_them(tiny_model: Path) -> None:
    theirs = gguf.GGUFReader(tiny_model)
    with GGUFFile(tiny_model) as file:
        assert set(file.tensors) == {tensor.name for tensor in theirs.tensors}
        for tensor in theirs.tensors:
            info = file.tensors[tensor.name]
            assert info.shape == tuple(int(n) for n in tensor.shape)
            assert (int(info.type), info.offset, info.n_bytes) == (
                int(tensor.tensor_type),
                tensor.data_offset,
                tensor.n_bytes,
            )
            assert file.tensor_bytes(tensor.name).tobytes() == tensor.data.tobytes()
            assert file.tensor_address(tensor.name) == file.address + info.offset


def test_another_alignment(tmp_path: Path) -> None:
    with GGUFFile(tiny_gguf.write(tmp_path / "a.gguf", alignment=128)) as file:
        assert file.alignment == 128
        assert all(tensor.offset % 128 == 0 for tensor in file.tensors.values())


def test_version_2_is_read(tiny_model: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    (tmp_path / "v2.gguf").write_bytes(data)
    with GGUFFile(tmp_path / "v2.gguf") as file:
        assert file.version == 2
        assert len(file.tensors) == 21


def test_the_mapping_is_read_only_and_views_survive_close(tiny_model: Path) -> None:
    file = GGUFFile(tiny_model)
    view = file.tensor_bytes("output_norm.weight")
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    file.close()
    assert view.view(np.float32).tolist() == [1.0] * tiny_gguf.N_EMBD
    assert file.data.size == 0


def test_files_that_cannot_be_mapped(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile(tmp_path / "pipe.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GGUFFormatError, match="empty"):
        GGUFFile(tmp_path / "empty.gguf")


def header(pairs: list[bytes], tensors: tuple[bytes, ...] = (), data: bytes = b"") -> bytes:
    """A file by hand, for what no writer would write."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header([text(b"k") + struct.pack("<IB", 7, 2)]), "bool with the value 2"),
        (header([text(b"k") + struct.pack("<IIQB", 9, 7, 1, 9)]), "bool with the value 9"),
        (header([text(b"k") + struct.pack("<IIQ", 9, 9, 0)]), "array of arrays"),
        (header([text(b"k\xff") + struct.pack("<IB", 7, 1)]), "key 0 of 1 is not UTF-8"),
        (header([text(b"k") + struct.pack("<I", 8) + text(b"\xc3")]), "'k' is not UTF-8"),
        (header([text(b"k") + struct.pack("<IIQ", 9, 8, 1) + text(b"\xc3")]), "element 0 of 'k' is not UTF-8"),
        (
            header([text(b"k") + struct.pack("<IIQ", 9, 8, 2) + text(b"x" * 40) + struct.pack("<Q", 999)]),
            "element 1 of 'k' claims 999 bytes",
        ),
        (
            header([text(b"general.alignment") + struct.pack("<IQ", 10, 2**63)], (tensor(b"a", (1,), 0, 0),)),
            "ends at byte",
        ),
        (header([text(b"general.alignment") + struct.pack("<II", 4, 4)]), "at least 8"),
        (header([text(b"general.alignment") + struct.pack("<If", 6, 32.0)]), "is a float, it should be an integer"),
        (
            header(
                [],
                (
                    tensor(b"a", (8,), 0, 0),
                    tensor(b"b", (8,), 0, 0),
                ),
                bytes(64),
            ),
            "inside tensor 'a'",
        ),
        (header([], (tensor(b"a", (0, 8), 0, 0),), bytes(64)), "0 elements"),
        (header([], (tensor(b"a", (), 0, 0),), bytes(64)), "has 0 dimensions"),
        (header([], (tensor(b"a", (8,), 4, 0),), bytes(64)), "unknown type 4"),
        (header([], (tensor(b"a", (8,), 0, 2**64 - 32),), bytes(64)), "ends at byte"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(64), "version 1, supported are 2 and 3"),
        (b"PK\x03\x04" + bytes(64), "not a GGUF file"),
    ],
)
def test_what_does_not_hold_together(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFFormatError) as caught:
        GGUFFile(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith("bad.gguf: ")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda m: m.integer("general.name"), "'general.name' is a string, it should be an integer"),
        (lambda m: m.number("tokenizer.ggml.scores"), "float32, it should be a number"),
        (lambda m: m.text("llama.block_count"), "is an integer, it should be a string"),
        (lambda m: m.flag("llama.block_count"), "is an integer, it should be a bool"),
        (lambda m: m.strings("tokenizer.ggml.scores"), "it should be an array of strings"),
        (lambda m: m.numbers("tokenizer.ggml.tokens"), "strings, it should be an array of numbers"),
        (lambda m: m.integer("no.such.key"), "no key 'no.such.key'"),
    ],
)
def test_metadata_of_another_type(read: Callable[[object], object], words: str, tiny_model: Path) -> None:
    with GGUFFile(tiny_model) as file, pytest.raises(ModelFileError, match=words):
        read(file.metadata)


def test_defaults_stand_in_for_absent_keys_only(tiny_model: Path) -> None:
    with GGUFFile(tiny_model) as file:
        assert file.metadata.integer("no.such.key", 5) == 5
        assert file.metadata.integer("llama.block_count", 5) == 2
        assert file.metadata.flag("no.such.key", False) is False
        assert describe(file.metadata["tokenizer.ggml.tokens"]).startswith("an array of")


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    words = b"".join(text(b"token%d" % n) for n in range(150_000))
    path = tmp_path / "big.gguf"
    path.write_bytes(header([text(b"tokens") + struct.pack("<IIQ", 9, 8, 150_000) + words]))
    start = time.perf_counter()
    with GGUFFile(path) as file:
        assert file.metadata.strings("tokens")[-1] == "token149999"
    assert time.perf_counter() - start < 3  # 0.06 s on the machine this was written on


def test_all_types_have_blocks() -> None:
    assert all(kind.block_size > 0 and kind.block_bytes > 0 for kind in GGMLType)
