"""Files that are told apart, and a file that somebody writes into while it is mapped."""

import os
import shutil
from pathlib import Path

import pytest

from woolly_worker.demo import DEMO_MODEL
from woolly_worker.gguf.fingerprint import fingerprint
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


def test_who_writes_into_a_mapped_file_is_noticed_and_who_replaces_it_is_not(model: Path) -> None:
    with GGUFFile(model) as file:
        assert not file.is_overwritten()
        new = Path(shutil.copyfile(model, model.with_suffix(".new")))
        before = model.stat()
        change(model, before.st_size - 1)
        os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # file systems count time coarsely
        assert file.is_overwritten()
        new.rename(model)
        assert not file.is_overwritten()
        model.unlink()
        assert not file.is_overwritten()
