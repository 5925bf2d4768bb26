"""`woolly up` as a process of its own, on free ports, for tests that go through the front door."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from woolly_api.client import WoollyClient
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.models import ModelRegistry, WorkerBeat

WOOLLY = (sys.executable, "-m", "woolly_api.cli")
START_SECONDS = 240.0  # the first worker on a machine compiles all kernels


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings of whoever runs the tests, and with a quick idea of a lost worker."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WOOLLY_", "FLOWER_"))}
    kept = {name: os.environ[name] for name in ("WOOLLY_KERNEL_CACHE",) if name in os.environ}
    bin_dir = str(Path(sys.executable).parent)
    return {
        **inherited,
        **kept,
        "PATH": f"{bin_dir}:{inherited.get('PATH', '')}",
        "NO_COLOR": "1",
        "WOOLLY_LEASE_SECONDS": "2",
        **more,
    }


class Process:
    """A program of ours with its lines, standard output and error together."""

    def __init__(self, *args: str, program: Sequence[str] = WOOLLY, **env: str) -> None:
        self._process = subprocess.Popen(
            [*program, *args],
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            matches = (re.search(pattern, line) for line in list(self.lines))
            return next((match for match in matches if match), None)

        wait_for(lambda: found() or self._process.poll() is not None, seconds, lambda: self.output)
        match = found()
        assert match is not None, f"it ended with {self._process.poll()}:\n{self.output}"
        return match

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        code = self._process.wait(seconds)
        self._reader.join(5)
        return code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()
            raise AssertionError(f"it did not stop:\n{self.output}") from None


class Cluster(Process):
    """`woolly up`, ready to be used."""

    def __init__(self, model: str, state_dir: Path, *args: str, **env: str) -> None:
        ports = ["--port", "0", "--flower-port", "0"]
        super().__init__("up", "--model", model, "--state-dir", str(state_dir), *ports, *args, **env)
        try:
            self.wait_for_line("^woolly: ready")
        except BaseException:
            self.signal(signal.SIGKILL)
            raise
        self.api_url = self.wait_for_line(r"^woolly: API +(http://\S+)")[1]
        self.flower_url = self.wait_for_line(r"^woolly: Flower +(http://\S+)")[1]
        self.redis_url = self.wait_for_line(r"^woolly: Redis +(\S+)")[1]

    def client(self) -> WoollyClient:
        return WoollyClient(self.api_url)

    def workers(self) -> list[WorkerBeat]:
        with contextlib.closing(connect(self.redis_url)) as client:
            return [beat for beat in ModelRegistry(client).workers() if beat.state == "ready"]


@contextmanager
def running_cluster(model: str, state_dir: Path, *args: str, **env: str) -> Iterator[Cluster]:
    cluster = Cluster(model, state_dir, *args, **env)
    try:
        yield cluster
    finally:
        cluster.stop()


def wait_for(
    condition: Callable[[], object], seconds: float = 20.0, explain: Callable[[], str] = lambda: "waited in vain"
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
