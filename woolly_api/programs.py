"""What `woolly up` and `woolly demo` run: a server, one worker, the API and Flower, each as a supervised program.

Decides command lines, addresses, folders and the order of stopping. Starts nothing itself (see supervisor.py).
"""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from woolly_api.supervisor import Program
from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.ledger.connection import check_server, connect
from woolly_worker.ledger.models import ModelRegistry
from woolly_worker.ledger.server import DEFAULT_APPENDFSYNC, AppendFsync, find_program, server_argv

WOOLLY = (sys.executable, "-m", "woolly_api.cli")
LOOPBACK = "127.0.0.1"
LAST_PORT = 65535
# A worker that compiles all kernels on a slow machine, or reads a large file from a slow disk, is still starting.
WORKER_READY_SECONDS = 1800.0
# What ending takes beyond the grace time: last words to Redis, and the threads of the engine or of the server.
WORKER_STOP_MARGIN_SECONDS = 25.0
API_STOP_MARGIN_SECONDS = 10.0
# For an answer to "are you ready?", which the supervisor waits for; who is asked through Redis gets two of them.
PROBE_SECONDS = 0.5


class CannotListen(Exception):
    pass


class StateDirBusy(Exception):
    pass


def choose_port(wanted: int, *, host: str = LOOPBACK, exact: bool) -> int:
    """`wanted`, or a free port when it is taken and `exact` is false. 0 takes any. Raises CannotListen."""
    if not 0 <= wanted <= LAST_PORT:  # the system would take some other one: its number modulo 65,536
        raise CannotListen(f"there is no port {wanted}: the last one is {LAST_PORT}")
    try:
        return _probe(host, wanted)
    except OSError as error:
        if not exact:
            return _probe(host, 0)
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(f"port {wanted} is taken") from error
        raise CannotListen(f"cannot listen on {host}:{wanted}: {error.strerror or error}") from error


def _probe(host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a port whose last connections are still winding down counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "woolly"


@contextlib.contextmanager
def locked_state_dir(path: Path) -> Iterator[None]:
    """Hold the folder: two servers that append to the same file would destroy it. Raises StateDirBusy."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateDirBusy(f"another woolly uses {path}; stop it, or choose a folder with --state-dir") from error
        yield


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything on this machine. `redis_url` None: a server of our own, on `redis_port`."""

    model: Path
    state_dir: Path
    api_host: str
    api_port: int
    flower_port: int | None  # None: without Flower
    redis_url: str | None
    redis_port: int
    appendfsync: AppendFsync = DEFAULT_APPENDFSYNC  # of a server of our own
    worker_options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    drain_seconds: float = 20.0  # what the worker was told
    api_grace_seconds: float = 20.0  # what the API was told

    @property
    def broker_url(self) -> str:
        return self.redis_url or f"redis://{LOOPBACK}:{self.redis_port}/0"

    @property
    def api_url(self) -> str:
        host = LOOPBACK if self.api_host in ("0.0.0.0", "::", "") else self.api_host
        return f"http://{host}:{self.api_port}"

    @property
    def flower_url(self) -> str | None:
        return None if self.flower_port is None else f"http://{LOOPBACK}:{self.flower_port}"

    def programs(self) -> list[Program]:
        """All but the server, which the others need: it is started first."""
        return [self._worker(), self._api(), *([] if self.flower_port is None else [self._flower()])]

    def server(self) -> Program | None:
        """The embedded server. Raises LedgerUnavailable when there is no program to run."""
        if self.redis_url is not None:
            return None
        data_dir = self.state_dir / "redis"
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Program(
            name="server",
            argv=tuple(
                server_argv(find_program(), port=self.redis_port, data_dir=data_dir, appendfsync=self.appendfsync)
            ),
            ready=lambda pid: server_answers(self.broker_url),
            stop_rank=3,  # everybody's last words go through it
            orphan_signal=signal.SIGTERM,  # lets it write its file
        )

    @property
    def _env(self) -> dict[str, str]:
        return {**self.env, "WOOLLY_REDIS_URL": self.broker_url, "PYTHONUNBUFFERED": "1"}

    def _worker(self) -> Program:
        return Program(
            name="worker",
            argv=(*WOOLLY, "worker", "--model", str(self.model), *self.worker_options),
            env=self._env,
            ready=WorkerReady(self.broker_url),
            ready_seconds=WORKER_READY_SECONDS,
            stop_rank=0,  # drains while the API still streams and the server still records
            stop_seconds=self.drain_seconds + WORKER_STOP_MARGIN_SECONDS,
        )

    def _api(self) -> Program:
        return Program(
            name="api",
            argv=(*WOOLLY, "api", "--host", self.api_host, "--port", str(self.api_port)),
            env=self._env,
            ready=lambda pid: answers(f"{self.api_url}/healthz"),
            stop_rank=1,
            stop_seconds=self.api_grace_seconds + API_STOP_MARGIN_SECONDS,
        )

    def _flower(self) -> Program:
        return Program(
            name="flower",
            argv=(*WOOLLY, "flower", "--host", LOOPBACK, "--port", str(self.flower_port)),
            env=self._env,
            ready=lambda pid: answers(f"{self.flower_url}/healthcheck"),
            stop_rank=2,
        )


class WorkerReady:
    """Whether the worker under this pid says in its heartbeat that it is ready: the pid is that of the parent that it
    has (see `queue/parent.py`). Others may serve from the same Redis."""

    def __init__(self, redis_url: str) -> None:
        self._registry = ModelRegistry(connect(redis_url, timeout_seconds=PROBE_SECONDS))
        self._hostname = socket.gethostname()

    def __call__(self, pid: int) -> bool:
        try:
            workers = self._registry.workers()
        except LedgerUnavailable:
            return False
        return any(
            pid in (beat.parent_pid, beat.pid) and (beat.hostname, beat.state) == (self._hostname, "ready")
            for beat in workers
        )


def server_answers(url: str) -> bool:
    with contextlib.closing(connect(url, timeout_seconds=PROBE_SECONDS)) as client:
        try:
            check_server(client)
        except LedgerUnavailable:
            return False
    return True


# Loopback is never reached through a proxy, whatever the environment says about one.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        with _opener.open(url, timeout=2 * PROBE_SECONDS) as response:
            response.read()
    except (OSError, ValueError, HTTPException):
        return False
    return True
