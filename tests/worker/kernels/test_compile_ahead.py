"""Operations compiled by several processes: who takes what, who waits for whom, and who ends with whom."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_cpu import run_python

from woolly_worker.kernels import cache_folder, compile_ahead, swiglu

SMALL = ("swiglu", "quantize")  # half a second each

# Prints how many operations are ready, and then those that this process has compiled.
PREPARE = (
    "import sys\n"
    "from woolly_worker.kernels import compile_ahead as ahead\n"
    "ahead.allowed_cpus = lambda: int(sys.argv[1])\n"
    "operations = [ahead.all_operations()[name] for name in sys.argv[2:]]\n"
    "ahead.prepare(operations, lambda n_ready, n_all: print(n_ready, n_all, flush=True))\n"
    "print(*(op.__name__ for op in operations if hasattr(op, '_keep_alive')))\n"
)

CHILDREN = "import psutil; print(psutil.Process().children())"


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


def folder_of(cache: Path) -> Path:
    """The folder of these sources on this machine, which a process has to make first."""
    ended = run_python(
        "-c", "from woolly_worker.kernels.jit import CACHE_DIR; print(CACHE_DIR)", WOOLLY_KERNEL_CACHE=str(cache)
    )
    return Path(ended.stdout.strip())


def test_every_operation_has_a_name_of_its_own() -> None:
    known = compile_ahead.all_operations()
    assert known["swiglu"] is swiglu.swiglu
    assert len({op.function for op in known.values()}) == len(known)
    # A name is a lock's file, and a word of a helper's command.
    assert all(name.isidentifier() for name in known)


def test_what_a_helper_compiled_is_found(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "woolly_worker.kernels.compile_ahead", *SMALL) as helper:
        assert helper.wait(240) == 0
    ended = run_python("-c", PREPARE, "1", *SMALL, WOOLLY_KERNEL_CACHE=str(tmp_path))
    assert ended.stdout.split("\n") == ["0 2", "1 2", "2 2", "", ""], ended.stderr


def test_what_another_process_is_at_comes_last_and_is_compiled_here_if_that_one_dies(tmp_path: Path) -> None:
    with ExitStack() as other:
        other.enter_context(cache_folder.locked(folder_of(tmp_path), SMALL[0]))
        with running(tmp_path, "-c", PREPARE, "1", *SMALL) as process:
            assert lines_of(process, 2) == ["0 2", "1 2"]
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            other.close()  # as death would, before there is a file
            assert lines_of(process, 2) == ["2 2", " ".join(SMALL)]


def test_helpers_share_the_work_and_leave_nobody_behind(tmp_path: Path) -> None:
    names = ("norm", *SMALL, "embed_f32", "embed_f16")
    ended = run_python("-c", PREPARE + CHILDREN, "3", *names, WOOLLY_KERNEL_CACHE=str(tmp_path))
    *progress, compiled_here, children, _ = ended.stdout.split("\n")
    assert progress == [f"{n_ready} 5" for n_ready in range(6)], ended.stderr
    assert "norm" in compiled_here.split()
    assert children == "[]"
    assert len(list(tmp_path.rglob("*.op"))) == len(names)


def test_a_helper_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "woolly_worker.kernels.compile_ahead", *compile_ahead.all_operations()) as helper:
        assert helper.stdin is not None
        helper.stdin.close()
        assert helper.wait(60) == 1
