"""Operations compiled by several processes: who takes what, who waits for whom, and who ends with whom."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_cpu import run_python

from woolly_worker.kernels import attention, cache_folder, compile_ahead, experts, rmsnorm, rope, swiglu, team
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.jit import CACHE_DIR, LazyOp

SMALL = ("swiglu", "quantize")  # half a second each
PATIENCE_S = 240

# Prints how many operations are ready, and then those that this process has compiled.
PREPARE = (
    "import sys\n"
    "from woolly_worker.kernels import compile_ahead as ahead\n"
    "operations = [ahead.all_operations()[name] for name in sys.argv[1:]]\n"
    "ahead.prepare(operations, lambda n_ready, n_all: print(n_ready, n_all, flush=True))\n"
    "print(*(op.__name__ for op in operations if hasattr(op, '_keep_alive')))\n"
)

# Has helpers, as on four CPUs, and does nothing itself but wait until they are through.
ONLY_HELPERS = (
    "import sys, time\n"
    "from woolly_worker.kernels import compile_ahead as ahead\n"
    "ahead.allowed_cpus = lambda: 4\n"
    "operations = [ahead.all_operations()[name] for name in sys.argv[1:]]\n"
    "with ahead._helpers(sys.argv[1:], most=2):\n"
    "    while not all(op.is_there() for op in operations): time.sleep(0.1)\n"
    "import psutil; print(psutil.Process().children())\n"
)


@contextmanager
def running(cache: Path, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    environment = os.environ | {"WOOLLY_KERNEL_CACHE": str(cache)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *argv], env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: "subprocess.Popen[str]", n_lines: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(n_lines)]


def compiled(cache: Path) -> set[str]:
    """The operations whose machine code lies in a cache."""
    return {file.name.partition("-")[0].rpartition(".")[2] for file in cache.rglob("*.op")}


def test_every_operation_has_a_name_of_its_own() -> None:
    """A name is a lock's file, and a word of a helper's command."""
    modules = (attention, experts, rmsnorm, rope, swiglu, team)
    found = {id(value) for module in modules for value in vars(module).values() if isinstance(value, LazyOp)}
    found |= {id(op) for format_ in FORMATS.values() for op in (format_.matmul, format_.embed)}
    known = compile_ahead.all_operations()
    assert {id(op) for op in known.values()} == found
    assert all(name == op.__name__ and name.isidentifier() for name, op in known.items())


def test_helpers_compile_and_leave_nobody_behind(tmp_path: Path) -> None:
    ended = run_python("-c", ONLY_HELPERS, *SMALL, "embed_f32", WOOLLY_KERNEL_CACHE=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
    assert compiled(tmp_path) == {*SMALL, "embed_f32"}
    ended = run_python("-c", PREPARE, *SMALL, WOOLLY_KERNEL_CACHE=str(tmp_path))
    assert ended.stdout.split("\n") == ["0 2", "1 2", "2 2", "", ""], ended.stderr


def test_what_another_process_is_at_comes_last_and_is_compiled_here_if_that_one_dies(tmp_path: Path) -> None:
    with ExitStack() as other:
        other.enter_context(cache_folder.locked(tmp_path / CACHE_DIR.name, SMALL[0]))
        with running(tmp_path, "-c", PREPARE, *SMALL) as process:
            assert lines_of(process, 2) == ["0 2", "1 2"]
            assert compiled(tmp_path) == {SMALL[1]}
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            assert compiled(tmp_path) == {SMALL[1]}
            other.close()  # as death would, before there is a file
            assert lines_of(process, 2) == ["2 2", " ".join(SMALL)]


def test_a_helper_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    names = compile_ahead.all_operations()  # minutes of work
    with running(tmp_path, "-m", "woolly_worker.kernels.compile_ahead", *names) as helper:
        give_up = time.monotonic() + PATIENCE_S
        while not compiled(tmp_path) and helper.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        assert helper.stdin is not None
        helper.stdin.close()
        assert helper.wait(PATIENCE_S) == compile_ahead.EXIT_PARENT_ENDED


class Ended:
    """A helper that has nothing left to do."""

    def kill(self) -> None:
        pass

    def communicate(self) -> None:
        pass


@pytest.mark.parametrize(("n_cpus", "n_large", "n_helpers"), [(1, 3, 0), (2, 3, 1), (2, 1, 0), (8, 3, 2), (8, 9, 3)])
def test_there_are_as_many_helpers_as_there_is_work_and_room(
    n_cpus: int, n_large: int, n_helpers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*(f"matmul_{i}" for i in range(n_large)), "norm"]
    told: list[list[str]] = []

    def helper(names: list[str]) -> Ended:
        told.append(names)
        return Ended()

    monkeypatch.setattr(compile_ahead, "allowed_cpus", lambda: n_cpus)
    monkeypatch.setattr(compile_ahead, "_helper", helper)
    with compile_ahead._helpers(names, n_large - 1):
        assert [first for first, *_ in told] == names[1 : n_helpers + 1]
        assert all(sorted(each) == sorted(names) for each in told)


def test_it_goes_without_helpers_where_no_process_may_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = []

    def helper(names: list[str]) -> Ended:
        tried.append(names)
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(compile_ahead, "allowed_cpus", lambda: 8)
    monkeypatch.setattr(compile_ahead, "_helper", helper)
    with compile_ahead._helpers(["matmul_f32", "matmul_f16", "matmul_bf16"], 2):
        assert len(tried) == 1


def test_a_folder_that_cannot_be_written_is_everybodys(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in the way")
    with cache_folder.locked(tmp_path / "folder", "thing") as is_ours:
        assert is_ours
