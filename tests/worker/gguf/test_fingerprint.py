"""Files that are told apart, and a file that somebody writes into while it is mapped."""

import os
import shutil
from pathlib import Path

import pytest

from woolly_worker.demo import DEMO_MODEL
from woolly_worker.gguf.fingerprint import Original, fingerprint
from woolly_worker.gguf.reader import GGUFFile


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(DEMO_MODEL, tmp_path / "model.gguf"))


def print_of(path: Path) -> str:
    with GGUFFile(path) as file:
        return fingerprint(file)


def change(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_copy_is_the_same_and_other_weights_are_not(model: Path) -> None:
    assert print_of(model) == print_of(DEMO_MODEL)
    with GGUFFile(model) as file:
        places = [info.offset for info in file.tensors.values()]
        places += [info.offset + info.n_bytes - 1 for info in file.tensors.values()]
    seen = {print_of(model)}
    for at in places:
        change(model, at)
        seen.add(print_of(model))
    assert len(seen) == 1 + len(places)


def touch(path: Path) -> None:
    """As `touch`, whatever the time is: file systems count it coarsely."""
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_who_writes_into_a_mapped_file_is_noticed_and_who_replaces_it_is_not(model: Path) -> None:
    with GGUFFile(model) as file:
        original = Original(file)
        assert not original.is_overwritten()
        new = Path(shutil.copyfile(model, model.with_suffix(".new")))
        change(model, model.stat().st_size - 1)
        touch(model)
        assert original.is_overwritten()
        new.rename(model)
        assert not original.is_overwritten()
        model.unlink()
        assert not original.is_overwritten()


def test_a_file_that_was_only_touched_is_the_same(model: Path) -> None:
    with GGUFFile(model) as file:
        original = Original(file)
        touch(model)
        assert not original.is_overwritten()
        assert not original.is_overwritten()
        change(model, model.stat().st_size - 1)
        touch(model)
        assert original.is_overwritten()


@pytest.mark.parametrize("by", [-1, 1])
def test_a_file_of_another_size_is_another_one(model: Path, by: int) -> None:
    with GGUFFile(model) as file:
        original = Original(file)
        os.truncate(model, file.n_bytes + by)
        assert original.is_overwritten()
