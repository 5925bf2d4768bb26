"""The cache of compiled operations: what a second process finds, what damage does, and when folders leave."""

import os
import time
from pathlib import Path

import pytest
from test_cpu import run_python

from woolly_worker.kernels import cache_folder, object_cache
from woolly_worker.kernels.compile_ahead import all_operations
from woolly_worker.kernels.jit import CACHE_DIR, LazyOp

RUN_ONE = (
    "import sys\n"
    "from woolly_worker.kernels import swiglu\n"
    "_ = swiglu.swiglu.address\n"
    "print('compiled' if hasattr(swiglu.swiglu, '_keep_alive') else 'found',\n"
    "      'with' if 'numba' in sys.modules else 'without', 'numba')"
)


def run_one(cache: Path) -> list[str]:
    ended = run_python("-c", RUN_ONE, WOOLLY_KERNEL_CACHE=str(cache))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_an_operation_is_compiled_once_and_then_found_without_the_compiler(tmp_path: Path) -> None:
    assert run_one(tmp_path)[0] == "compiled"
    [file] = tmp_path.rglob("*.op")
    assert run_one(tmp_path) == ["found", "without", "numba"]
    # Damage is as good as absence, wherever it strikes.
    sound = file.read_bytes()
    for damaged in (sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1])):
        file.write_bytes(damaged)
        assert run_one(tmp_path)[0] == "compiled"
        assert run_one(tmp_path)[0] == "found"
    assert [path.suffix for path in file.parent.glob("*swiglu*.op*")] == [".op"], "no temporary file is left"


@pytest.mark.parametrize("operation", all_operations().values(), ids=lambda op: op.__name__)
def test_operations_need_no_symbols_of_numba(operation: LazyOp) -> None:
    """A start that finds them on disk does without it."""
    assert operation.address
    content = object_cache.path_of(operation.function, CACHE_DIR).read_bytes()
    assert [symbol for symbol in object_cache._NUMBA_SYMBOLS if symbol in content] == []


def folder_of_age(root: Path, name: str, days: float) -> Path:
    folder = root / name
    with cache_folder.locked(folder, "kernel"):
        (folder / "kernel.nbc").write_bytes(b"code")
    then = time.time() - days * 24 * 3600
    os.utime(folder / "lock", (then, then))
    return folder


def test_folders_leave_when_nobody_has_used_them_for_thirty_days(tmp_path: Path) -> None:
    mine = folder_of_age(tmp_path, "x86_64-avx2-" + "0" * 16, days=99)
    old = folder_of_age(tmp_path, "x86_64-avx2-" + "1" * 16, days=31)
    young = folder_of_age(tmp_path, "x86_64-avx2-" + "2" * 16, days=29)
    of_others = folder_of_age(tmp_path, "photographs", days=400)
    no_lock = tmp_path / ("x86_64-avx2-" + "3" * 16)
    no_lock.mkdir()
    cache_folder.use(mine)
    assert sorted(tmp_path.iterdir()) == sorted([mine, young, of_others, no_lock])
    assert not old.exists()
    assert time.time() - (mine / "lock").stat().st_mtime < 60
    # What was used counts, not who looks: from the neighbour's side the folder is young now.
    cache_folder.use(young)
    assert mine.exists()


def test_a_folder_in_which_somebody_compiles_stays(tmp_path: Path) -> None:
    mine = folder_of_age(tmp_path, "a-" + "0" * 16, days=0)
    old = folder_of_age(tmp_path, "a-" + "1" * 16, days=31)
    with cache_folder.locked(old, "kernel"):
        os.utime(old / "lock", (0, 0))
        cache_folder.use(mine)
        assert old.exists()
    cache_folder.use(mine)
    assert not old.exists()


def test_a_place_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    cache_folder.use(tmp_path / "nowhere" / "a-0000000000000000")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    mine = folder_of_age(tmp_path, "a-" + "0" * 16, days=31)
    folder_of_age(tmp_path, "a-" + "1" * 16, days=31)
    tmp_path.chmod(0o500)
    try:
        cache_folder.use(mine)
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        tmp_path.chmod(0o700)


class Interrupted:
    """What Numba has when a signal's exception ended in the callback that brings the machine code."""

    native_name = "cfunc.swiglu"

    class _library:  # noqa: N801
        @staticmethod
        def _get_compiled_object() -> bytes:
            raise RuntimeError("no compiled object yet")


def test_an_interrupt_that_llvm_swallowed_is_raised_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        object_cache.save(tmp_path / "swiglu.op", Interrupted())
    assert list(tmp_path.iterdir()) == []
