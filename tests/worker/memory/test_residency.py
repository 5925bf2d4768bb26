"""Residency: what the system grants, and that nothing depends on it."""

import errno
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from woolly_worker.demo import DEMO_MODEL
from woolly_worker.memory import residency
from woolly_worker.memory.residency import (
    ReadAhead,
    huge_bytes_of_mapping,
    huge_page_bytes,
    lock,
    locked_bytes,
    resident_bytes,
    use_huge_pages,
)
from woolly_worker.queue import loading
from woolly_worker.queue.loading import load_model
from woolly_worker.settings import WorkerSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise, mincore and /proc are Linux's")

N_BYTES = 5 * mmap.PAGESIZE + 1


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[Any]:
    """A file of a few pages and a byte, mapped, and asked out of memory before."""
    path = tmp_path / "file"
    path.write_bytes(b"w" * N_BYTES)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    yield np.frombuffer(mmap.mmap(descriptor, N_BYTES, prot=mmap.PROT_READ), np.uint8)
    os.close(descriptor)


@pytest.mark.parametrize("piece", [mmap.PAGESIZE, 4 * mmap.PAGESIZE, 1 << 26])
def test_read_ahead_brings_all_of_a_file_into_memory(mapping: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "READ_AHEAD_BYTES", piece)
    read_ahead = ReadAhead(mapping)
    assert read_ahead.wait(10)
    assert resident_bytes(mapping.ctypes.data, N_BYTES) == 6 * mmap.PAGESIZE
    read_ahead.close()
    read_ahead.close()


def test_a_closed_read_ahead_stops_at_the_next_piece(mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, closing = [], threading.Event()

    def advise(address: int, n_bytes: int, advice: int) -> bool:
        pieces.append(n_bytes)
        return closing.wait(10)

    monkeypatch.setattr(residency, "READ_AHEAD_BYTES", mmap.PAGESIZE)
    monkeypatch.setattr(residency, "_advise", advise)
    read_ahead = ReadAhead(mapping)
    threading.Timer(0.05, closing.set).start()
    read_ahead.close()
    assert pieces == [mmap.PAGESIZE]


def test_a_file_in_small_pages_is_read_again_and_stays_what_it_was(tmp_path: Path) -> None:
    """Whether it comes in large pieces then is the file system's business; that it did is told by the mapping."""
    path, n_bytes = tmp_path / "file", 8 << 20
    content = np.random.default_rng(1).integers(0, 256, n_bytes, np.uint8)
    path.write_bytes(content.tobytes())
    with path.open("rb") as file:
        os.fsync(file.fileno())
        mapping = np.frombuffer(mmap.mmap(file.fileno(), n_bytes, prot=mmap.PROT_READ), np.uint8)
    use_huge_pages(mapping.ctypes.data, n_bytes)
    read_ahead = ReadAhead(mapping, large_pieces_of=path)
    assert read_ahead.wait(10)
    assert resident_bytes(mapping.ctypes.data, n_bytes) == n_bytes
    assert np.array_equal(mapping, content)
    assert huge_bytes_of_mapping(mapping.ctypes.data) % (2 << 20) == 0
    read_ahead.close()


def test_only_what_is_in_small_pages_is_read_again(
    mapping: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(residency, "_advise", lambda address, n_bytes, advice: asked.append(advice) or True)
    monkeypatch.setattr(residency, "huge_bytes_of_mapping", lambda address: N_BYTES)
    assert ReadAhead(mapping, large_pieces_of=tmp_path / "file").wait(10)
    assert residency._MADV_DONTNEED not in asked
    monkeypatch.setattr(residency, "huge_bytes_of_mapping", lambda address: 0)
    assert ReadAhead(mapping, large_pieces_of=tmp_path / "file").wait(10)
    assert asked.count(residency._MADV_DONTNEED) == 1
    assert ReadAhead(mapping, large_pieces_of=tmp_path / "gone").wait(10)
    assert asked.count(residency._MADV_DONTNEED) == 1


def test_a_range_is_locked_by_whole_pages(mapping: Any) -> None:
    before = locked_bytes()
    assert before is not None
    assert lock(mapping.ctypes.data + 1, mmap.PAGESIZE) is None
    assert locked_bytes() == before + 2 * mmap.PAGESIZE


def test_huge_pages_are_asked_for_whole_pages_of_any_range() -> None:
    """What the system makes of it is its business, so only that it says yes or no, and that memory is as before."""
    memory = np.frombuffer(mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    granted = use_huge_pages(memory.ctypes.data + 100, memory.nbytes - 100)
    assert granted == Path("/sys/kernel/mm/transparent_hugepage").exists()
    memory[:] = 7
    assert int(memory.min()) == 7
    assert (huge_page_bytes() or 0) >= 0


def load(remarks: list[str], **settings: Any) -> tuple[str, ...]:
    model = load_model(
        WorkerSettings(model=DEMO_MODEL, threads=1, **settings), lambda events: None, remark=remarks.append
    )
    try:
        assert (model.read_ahead is None) == ("mlock" in model.optimizations)
        return model.optimizations
    finally:
        model.close()


def test_a_worker_says_what_it_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "lock", lambda address, n_bytes: None)
    monkeypatch.setattr(loading, "use_huge_pages", lambda address, n_bytes: True)
    remarks: list[str] = []
    assert {"mlock", "huge_pages"} <= set(load(remarks, mlock=True, huge_pages=True))
    assert not {"mlock", "huge_pages"} & set(load(remarks))
    assert remarks == []


def test_a_refused_lock_is_a_remark_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "lock", lambda address, n_bytes: "Cannot allocate memory")
    monkeypatch.setattr(loading, "lock_limit", lambda: 8 << 20)
    remarks: list[str] = []
    assert "mlock" not in load(remarks, mlock=True)
    (remark,) = remarks
    assert f"{DEMO_MODEL.stat().st_size:,} bytes" in remark
    assert "8,388,608" in remark


def test_the_system_says_why_it_does_not_lock() -> None:
    """Memory that is not mapped: the one refusal that privileges do not change."""
    nowhere = (1 << 47) - (1 << 30)
    assert lock(nowhere, mmap.PAGESIZE) == os.strerror(errno.ENOMEM)


def test_a_model_larger_than_memory_is_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
    remarks: list[str] = []
    model = load_model(
        WorkerSettings(model=DEMO_MODEL, threads=1, slots=1, kv_cache_bytes=1 << 20),
        lambda events: None,
        remark=remarks.append,
    )
    assert model.read_ahead is None
    model.close()
    assert any(f"{DEMO_MODEL.stat().st_size:,} bytes, but 1,048,576" in remark for remark in remarks)
