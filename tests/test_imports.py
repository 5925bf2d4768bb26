"""Who may load what, seen in fresh interpreters: import-linter knows our own arrows, this knows the heavy packages."""

import json
import subprocess
import sys
import textwrap

import pytest

from woolly_worker.ledger.server import free_port

COMPILERS = {"numba", "llvmlite"}
ARRAYS = {"numpy", "gguf", "tokenizers"}
QUEUE = {"celery", "kombu", "redis"}
WEB = {"fastapi", "starlette", "uvicorn", "httpx", "sse_starlette"}
TERMINAL = {"typer", "rich"}
WATCHED = COMPILERS | ARRAYS | QUEUE | WEB | TERMINAL


def loaded_by(module: str) -> set[str]:
    """Which of the watched packages a fresh interpreter has loaded after importing `module`."""
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return WATCHED & set(json.loads(result.stdout))


@pytest.mark.parametrize(
    "module",
    ["woolly_worker.contract." + name for name in ("errors", "events", "jobs", "states")],
)
def test_the_contract_loads_nothing_but_pydantic(module: str) -> None:
    assert loaded_by(module) == set()


def test_the_ledger_loads_redis_alone() -> None:
    assert loaded_by("woolly_worker.ledger.ledger, woolly_worker.ledger.reader") == {"redis"}


def test_the_api_loads_no_arrays_and_no_compiler() -> None:
    assert not loaded_by("woolly_api.app") & (COMPILERS | ARRAYS)


def test_the_worker_loads_no_web_framework_and_no_compiler() -> None:
    """llvmlite links what has been compiled."""
    loaded = loaded_by("woolly_worker.queue.worker, woolly_worker.queue.tasks, woolly_worker.queue.pool")
    assert not loaded & (WEB | {"typer", "numba"})  # rich comes with structlog's console


def test_the_engine_loads_no_queue() -> None:
    assert not loaded_by("woolly_worker.engine.engine") & (QUEUE | WEB | TERMINAL)


def test_the_command_line_loads_neither_a_compiler_nor_a_web_framework_nor_a_queue() -> None:
    assert loaded_by("woolly_api.cli") <= TERMINAL


@pytest.mark.parametrize("command", ["submit x", "watch x", "jobs", "cancel x", "timeline x"])
def test_a_command_about_jobs_loads_a_client_and_no_more(command: str) -> None:
    words = ["woolly", *command.split(), "--api", f"http://127.0.0.1:{free_port()}"]
    code = f"""
        import contextlib, json, sys
        from woolly_api.cli import main
        sys.argv = {words}
        with contextlib.suppress(SystemExit):
            main()
        print(json.dumps(sorted(name.partition(".")[0] for name in sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert "no Woolly API answers" in result.stderr
    loaded = set(json.loads(result.stdout))
    assert loaded & (WATCHED | {"click", "pygments"}) == {"httpx", "typer"}


def test_file_formats_load_no_compiler() -> None:
    loaded = loaded_by("woolly_worker.gguf.reader, woolly_worker.model.config, woolly_worker.model.weights")
    assert not loaded & (COMPILERS | QUEUE | WEB)
