"""The worker's sign of life: who it is, what it serves and how busy it is, every few seconds, with a time to live.

Says nothing about jobs: a lease is renewed by steps, never by a process that merely exists.
"""

import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import psutil

from woolly_worker.contract.errors import LedgerUnavailable, LedgerVersionMismatch
from woolly_worker.ledger import versions
from woolly_worker.ledger.foreign import foreign
from woolly_worker.ledger.models import HEARTBEAT_SECONDS, ModelCard, ModelRegistry, WorkerBeat, WorkerStats
from woolly_worker.memory.residency import huge_page_bytes, locked_bytes
from woolly_worker.queue.inbound import door
from woolly_worker.queue.metrics import worker_stats
from woolly_worker.settings import WorkerSettings
from woolly_worker.telemetry import log, log_bug


class HasStats(Protocol):
    def stats(self) -> Any: ...


class Heartbeat:
    def __init__(
        self,
        registry: ModelRegistry,
        worker_id: str,
        settings: WorkerSettings,
        *,
        every_seconds: float = HEARTBEAT_SECONDS,
        on_newer_ledger: Callable[[LedgerVersionMismatch], None] = lambda error: None,
    ) -> None:
        """`on_newer_ledger` is told, in this thread, that a newer program has taken the ledger over."""
        self.state = "loading"
        self._registry = registry
        self._worker_id = worker_id
        self._settings = settings
        self._every_seconds = every_seconds
        self._on_newer_ledger = on_newer_ledger
        self._engine: HasStats | None = None
        self._card: ModelCard | None = None
        self._n_ctx: int | None = None
        self._optimizations: tuple[str, ...] = ()
        self._recipe: str | None = None
        self._check: Callable[[], None] = lambda: None
        self._started_at = time.time()
        self._last = (time.monotonic(), WorkerStats())
        self._process = psutil.Process()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ready(
        self,
        engine: HasStats,
        card: ModelCard,
        n_ctx: int,
        optimizations: tuple[str, ...],
        recipe: str,
        check: Callable[[], None],
    ) -> None:
        """`n_ctx`: of the card, or less where the KV cache holds no sequence as long. `check` is called at every beat
        from now on."""
        self._engine = engine
        self._n_ctx = n_ctx
        self._recipe, self._check = recipe, check
        self._card = card
        self._optimizations = optimizations
        self.state = "ready"
        self._wake.set()

    def stop(self) -> None:
        """Says goodbye, if Redis is there to hear it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(5.0)
        try:
            self._registry.leave(self._worker_id)
        except LedgerUnavailable as error:
            log.warning("left without a goodbye", reason=error.message)

    def _run(self) -> None:
        away = False
        while not self._stop.is_set():
            try:
                versions.check_now(self._registry.client)
                self._check()
                if self._card is not None:  # every time: a server that lost its data learns about the model anew
                    self._registry.announce(self._card)
                self._registry.beat(self._beat())
                away = False
            except LedgerUnavailable as error:
                if not away:  # one line per absence
                    log.warning("heartbeat not heard", reason=error.message)
                away = True
            except LedgerVersionMismatch as error:  # of what we would say the newer program would have to read
                self._on_newer_ledger(error)
            except Exception as error:
                log_bug("a heartbeat failed", error)
            self._wake.wait(self._every_seconds)
            self._wake.clear()

    def _beat(self) -> WorkerBeat:
        return WorkerBeat(
            worker_id=self._worker_id,
            model=self._settings.served_name,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            parent_pid=os.getppid(),
            state=self.state,
            threads=self._settings.threads,
            n_ctx=self._n_ctx,
            optimizations=self._optimizations,
            recipe=self._recipe,
            started_at=self._started_at,
            stats=self._stats(),
        )

    def _stats(self) -> WorkerStats:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        own = {
            "slots": self._settings.slots,
            "refused_messages_total": door.n_refused,
            "damaged_jobs_total": foreign.counts["job"],
            "rss_bytes": self._process.memory_info().rss,
            "locked_bytes": locked_bytes(),
            "huge_page_bytes": huge_page_bytes() if self._settings.huge_pages else None,
            "cpu_seconds_total": usage.ru_utime + usage.ru_stime,
            "minor_faults_total": usage.ru_minflt,
            "major_faults_total": usage.ru_majflt,
        }
        if self._engine is None:
            return WorkerStats.model_validate(own)
        now = time.monotonic()
        then, before = self._last
        stats = worker_stats(self._engine.stats(), before, now - then).model_copy(update=own)
        self._last = (now, stats)
        return stats
