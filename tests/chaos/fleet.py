"""A cluster to be attacked: a server that keeps every write, two proxies in front of it, workers and APIs.

Whoever dies is started again at once, as a supervisor would, and whoever stands still is woken when its time has come.
The workers reach Redis through one proxy, the APIs through the other; the harness itself goes straight to the server.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis
from chaos.catalogue import MODEL
from chaos.proxy import Proxy
from chaos.traps import TrapFolder
from cluster import wait_for

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import check_server, connect, translated_errors
from woolly_worker.ledger.models import ModelRegistry
from woolly_worker.ledger.records import Bell
from woolly_worker.ledger.server import find_program, free_port, server_argv
from woolly_worker.queue.app import create_app

HERE = Path(__file__).parent
START_SECONDS = 240.0  # the first worker on a machine compiles all kernels
LEASE_SECONDS = 1.0
PACE_SECONDS = 0.008
# Whoever walked into a trap and stands still is woken when another has surely taken its jobs over.
PAST_THE_LEASE_SECONDS = 2.5
# For what a worker says that was woken only now: nothing of it may be written.
LAST_WORDS_SECONDS = 0.3

WORKER_SETTINGS = {
    "WOOLLY_MODEL_NAME": MODEL,
    "WOOLLY_THREADS": "1",
    "WOOLLY_SLOTS": "4",
    "WOOLLY_PREFILL_CHUNK": "32",
    "WOOLLY_LEASE_SECONDS": str(LEASE_SECONDS),
    "WOOLLY_DRAIN_SECONDS": "0.3",
    "WOOLLY_LOG_FORMAT": "json",
    "PACE_SECONDS": str(PACE_SECONDS),
}
SHARED_SETTINGS = {
    "WOOLLY_BELL_SECONDS": "1",
    "WOOLLY_RETENTION_SECONDS": "120",
    "WOOLLY_MAX_CRASHES": "100",  # workers are killed here by somebody else than their jobs
}
API_SETTINGS = {"WOOLLY_API_HEARTBEAT_SECONDS": "1", "WOOLLY_API_LOG_FORMAT": "json"}


@dataclass
class Member:
    """A place for a process: who is in it now, and what it is to do."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def stands_still(self) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False


class Fleet:
    def __init__(
        self, folder: Path, *, n_workers: int = 2, n_apis: int = 2, fsync: str = "always", mutant: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.traps = TrapFolder(folder / "traps")
        self.model = folder / "model.gguf"
        self.model.write_bytes(DEMO_MODEL.read_bytes())
        self.redis_port = free_port()
        self._fsync = fsync
        self._start_server()
        self.client = connect(f"redis://127.0.0.1:{self.redis_port}/0", timeout_seconds=5.0)
        self.worker_proxy, self.api_proxy = Proxy(self.redis_port), Proxy(self.redis_port)
        mutated = {} if mutant is None else {"CHAOS_MUTANT": mutant}
        self.workers = [self._worker(index, mutated) for index in range(n_workers)]
        self.apis = [self._api(index, mutated) for index in range(n_apis)]
        self.n_started: Counter[str] = Counter()
        self.keeps = True  # whether the dead are started again
        self._wake_after: dict[int, float] = {}
        self._still_since: dict[int, float] = {}
        self._over = threading.Event()
        for member in self.members:
            self._start(member)
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    @property
    def members(self) -> list[Member]:
        return [*self.workers, *self.apis]

    @property
    def api_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{member.env['WOOLLY_API_PORT']}" for member in self.apis]

    # -- attacks --

    def kill(self, member: Member) -> None:
        member.signal(signal.SIGKILL)

    def stop(self, member: Member, seconds: float) -> None:
        """SIGSTOP; the keeper wakes it."""
        self._wake_after[member.process.pid] = seconds
        member.signal(signal.SIGSTOP)

    def restart_server(self, seconds: float, *, forgets_bytes: int = 0) -> None:
        """kill -9, and after a while the same server from its append-only file. With `forgets_bytes` it has lost the
        end of that file, as a machine without power has that acknowledged what was not on its disk yet."""
        self._server.kill()
        self._server.wait()
        if forgets_bytes:
            (newest,) = (self.folder / "redis").glob("appendonlydir/*.incr.aof")
            os.truncate(newest, max(0, newest.stat().st_size - forgets_bytes))
        time.sleep(seconds)
        self._start_server()

    def stop_server(self, seconds: float) -> None:
        """It answers nobody, and nobody is told: what DEBUG SLEEP or a swapping machine does."""
        self._server.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._server.send_signal(signal.SIGCONT)

    def drop_bells(self) -> int:
        """All messages that wait for a worker are gone. Returns how many there were."""
        dropped = 0
        for key in self.client.scan_iter(f"m.{MODEL}*"):
            dropped += int(self.patient(lambda key=key: self.client.llen(key)))  # type: ignore[misc]
            self.patient(lambda key=key: self.client.delete(key))  # type: ignore[misc]
        return dropped

    def double_bells(self) -> None:
        """Every open job's message once more, as a broker delivers that has lost track."""
        with create_app(f"redis://127.0.0.1:{self.redis_port}/0") as app:
            for job_id in self.patient(lambda: self.client.zrange(keys.OPEN_JOBS, 0, -1)):
                app.send_task(**Bell(job_id, MODEL, number=0).send_task_options())

    def kill_connections(self, kind: str) -> None:
        self.patient(lambda: self.client.client_kill_filter(_type=kind, skipme=True))

    # -- between attacks --

    def calm(self) -> None:
        """Nothing is wrong any more: everybody alive, awake and connected."""
        self.traps.disarm_all()
        self.worker_proxy.calm()
        self.api_proxy.calm()
        asleep = [member for member in self.members if member.stands_still()]
        for member in asleep:
            member.signal(signal.SIGCONT)
        if asleep:
            time.sleep(LAST_WORDS_SECONDS)
        wait_for(self.is_ready, START_SECONDS, self._who_is_not)

    def is_ready(self) -> bool:
        return not self._missing()

    def _missing(self) -> list[str]:
        try:
            ready = {beat.pid for beat in ModelRegistry(self.client).workers() if beat.state == "ready"}
        except LedgerUnavailable:
            return ["server"]
        missing = [member.name for member in self.workers if not member.alive or member.process.pid not in ready]
        return missing + [member.name for member in self.apis if not member.alive or not _answers(member)]

    def _who_is_not(self) -> str:
        missing = self._missing()
        tails = [f"--- {m.name}\n{m.log.read_text()[-2000:]}" for m in self.members if m.name in missing]
        return "\n".join([f"not ready: {', '.join(missing)}", *tails])

    def count_events(self, event: str) -> int:
        """How often the members' logs have this line."""
        wanted = f'"event": {json.dumps(event)}'
        return sum(member.log.read_text(errors="replace").count(wanted) for member in self.members)

    def close(self) -> None:
        self.keeps = False
        self._over.set()
        self._keeper.join(5)
        for member in self.members:
            member.signal(signal.SIGKILL)
            member.process.wait()
        self.worker_proxy.close()
        self.api_proxy.close()
        self.client.close()
        self._server.send_signal(signal.SIGCONT)
        self._server.kill()
        self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- members --

    def _start_server(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        argv = server_argv(find_program(), port=self.redis_port, data_dir=data)
        argv[argv.index("--appendfsync") + 1] = self._fsync
        with (self.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with connect(f"redis://127.0.0.1:{self.redis_port}/0", timeout_seconds=0.5) as client:

            def answers() -> bool:
                with suppress(LedgerUnavailable), translated_errors():
                    check_server(client)
                    return bool(client.ping())  # refused while it still reads its file, which INFO is not
                return False

            wait_for(answers, 20, lambda: "the server does not start")

    def _worker(self, index: int, more: dict[str, str]) -> Member:
        env = {**environment(), **WORKER_SETTINGS, **SHARED_SETTINGS, **more}
        env |= {"WOOLLY_REDIS_URL": self.worker_proxy.url, "WOOLLY_MODEL": str(self.model)}
        return self._member(f"worker{index}", "chaos_worker.py", env)

    def _api(self, index: int, more: dict[str, str]) -> Member:
        env = {**environment(), **API_SETTINGS, **SHARED_SETTINGS, **more, "WOOLLY_REDIS_URL": self.api_proxy.url}
        return self._member(f"api{index}", "chaos_api.py", {**env, "WOOLLY_API_PORT": str(free_port())})

    def _member(self, name: str, program: str, env: dict[str, str]) -> Member:
        env["CHAOS_TRAPS"] = str(self.traps.path)
        return Member(name, [sys.executable, str(HERE / program)], env, self.folder / f"{name}.log")

    def _start(self, member: Member) -> None:
        self.n_started[member.name] += 1
        member.start()

    def _keep(self) -> None:
        """Wakes and restarts, twenty times a second."""
        while not self._over.wait(0.05):
            now = time.monotonic()
            for member in self.members:
                pid = member.process.pid
                if not member.alive:
                    if self.keeps:
                        self._start(member)
                elif member.stands_still():
                    since = self._still_since.setdefault(pid, now)
                    if now - since >= self._wake_after.get(pid, PAST_THE_LEASE_SECONDS):
                        member.signal(signal.SIGCONT)
                        self._still_since.pop(pid, None)
                else:
                    self._still_since.pop(pid, None)

    @staticmethod
    def patient(call: Any) -> Any:
        """The harness's own calls wait until the server is back."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return call()
            except redis.exceptions.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WOOLLY_", "FLOWER_"))}
    kernels = {name: os.environ[name] for name in ("WOOLLY_KERNEL_CACHE",) if name in os.environ}
    # The programs import `chaos` and `paced_worker` as the tests do, and the packages from this tree.
    paths = (HERE.parent, HERE.parent / "worker" / "queue", HERE.parents[1])
    return {**kept, **kernels, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def _answers(member: Member) -> bool:
    from woolly_api.programs import answers

    return answers(f"http://127.0.0.1:{member.env['WOOLLY_API_PORT']}/healthz")
