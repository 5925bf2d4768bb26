"""A peer: another program that carries out the same commands, in a process that stays loaded between them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from woolly_worker.bench.plan import Work, command

PEER_VARIABLE = "WOOLLY_BENCH_PEER"
SCRIPT = Path(__file__).with_name("llama_cpp_runner.py")
PROBE = "import llama_cpp"


class PeerFailed(Exception):
    """There is no peer where one was asked for, or it ended; the message is for people."""


def find_peer_python(wanted: str | None) -> str | None:
    """The Python that has llama-cpp-python: `wanted`, else WOOLLY_BENCH_PEER's, else this one, else None.

    Raises PeerFailed when one that was asked for by name has it not.
    """
    asked = wanted or os.environ.get(PEER_VARIABLE)
    python = asked or sys.executable
    try:
        found = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False).returncode == 0
    except OSError:
        found = False
    if not found and asked:
        raise PeerFailed(
            f"{asked} does not run, or cannot import llama_cpp: pip install llama-cpp-python there "
            "(Woolly's extra 'peers'), or leave the peer out"
        )
    return python if found else None


class LlamaCpp:
    """llama.cpp, with the model loaded and its contexts filled for every depth of the plan."""

    name = "llama.cpp"

    def __init__(self, python: str, model: Path, plan: list[Work], *, n_threads: int) -> None:
        # A file, because a pipe that nobody reads would fill up.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, lives as long as the process
        self._process = subprocess.Popen(
            [python, str(SCRIPT), str(model.resolve()), "--threads", str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.version: str = self._answer()["ready"]
        for work in plan:
            self._ask({"do": "prepare", "work": command(work)})

    def can_run(self, work: Work) -> bool:
        """All of a plan."""
        return True

    def run(self, work: Work) -> list[float]:
        """Seconds of every step of the work."""
        steps: list[float] = self._ask({"do": "run", "work": command(work)})["steps"]
        return steps

    def close(self) -> None:
        """Its input ends, and so does it."""
        self._process.communicate()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is told by the answer that does not come
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        self.close()
        raise PeerFailed(f"llama.cpp ended with {status}" + (f": {said[-1]}" if said else ""))
