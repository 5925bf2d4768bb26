"""Everything of a worker that is neither Celery nor the engine: who runs what, and how it all starts and ends.

The pool starts and stops it, the task uses it. One per process.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from woolly_worker.contract.benchmarks import BenchmarkResult, BenchmarkType
from woolly_worker.contract.errors import BenchmarkRunning, LedgerVersionMismatch
from woolly_worker.engine.events import EngineEvent, EngineRequest
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry
from woolly_worker.ledger.reaper import Reaper
from woolly_worker.ledger.records import Bell, Claim
from woolly_worker.queue.heartbeat import Heartbeat
from woolly_worker.queue.prompts import Encoder, Template, prompt_ids
from woolly_worker.queue.publisher import Publisher
from woolly_worker.queue.solitude import Solitude
from woolly_worker.settings import WorkerSettings
from woolly_worker.telemetry import log, log_job, log_lost

if TYPE_CHECKING:
    from woolly_worker.bench.beside import Measured

WRITER_TIMEOUT_SECONDS = 1.0
CLIENT_TIMEOUT_SECONDS = 2.0
# After the drain: released jobs are written down, tasks return.
RELEASE_SECONDS = 5.0


class ServedEngine(Protocol):
    """The engine, as far as the queue knows it."""

    def start(self, on_death: Callable[[], None]) -> None: ...
    def stop(self) -> None: ...
    def submit(self, request: EngineRequest) -> None: ...
    def cancel(self, job_id: str, fence: int | None = None) -> None: ...
    def drop(self, job_id: str, fence: int) -> None: ...
    def isolate(self, job_id: str, fence: int) -> threading.Event: ...
    def rejoin(self, job_id: str, fence: int) -> None: ...
    def drain(self, grace_seconds: float) -> bool: ...
    def stats(self) -> Any: ...


class Served(Protocol):
    """A loaded model, as far as the queue knows it."""

    @property
    def engine(self) -> ServedEngine: ...
    @property
    def tokenizer(self) -> Encoder: ...
    @property
    def chat(self) -> Template | None: ...
    @property
    def longest(self) -> int: ...
    @property
    def optimizations(self) -> tuple[str, ...]: ...
    @property
    def recipe(self) -> str: ...
    def is_overwritten(self) -> bool: ...
    def card(self) -> ModelCard: ...
    def benchmark(self, kind: BenchmarkType, iterations: int, stop: Callable[[], bool]) -> "Measured": ...
    def close(self) -> None: ...


Loader = Callable[[WorkerSettings, Callable[[Sequence[EngineEvent]], None]], Served]


class Runtime:
    def __init__(
        self,
        settings: WorkerSettings,
        load: Loader,
        send: Callable[[Bell], None],
        end: Callable[[], None] = lambda: None,
        introduce: Callable[[str], None] = lambda worker_id: None,
    ) -> None:
        """`end` asks for the end of this process: without an engine it serves nothing. `introduce` hears the worker's
        id when it is about to take jobs."""
        self.settings = settings
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.giving_up = threading.Event()  # nobody waits for Redis any more
        self.taking = threading.Lock()  # held from the look at who is next to its claim
        self._client = connect(settings.redis_url, timeout_seconds=CLIENT_TIMEOUT_SECONDS)
        self._writer_client = connect(settings.redis_url, timeout_seconds=WRITER_TIMEOUT_SECONDS)
        self.ledger = self._ledger(self._client)
        self.publisher = Publisher(self._ledger(self._writer_client), lease_seconds=settings.lease_seconds)
        self.solitude = Solitude(company_seconds=2 * settings.lease_seconds)
        self.registry = ModelRegistry(self._client)
        self._heartbeat = Heartbeat(self.registry, self.worker_id, settings, on_newer_ledger=self._on_newer_ledger)
        self._benchmarking = threading.Lock()
        self._reaper = Reaper(self.ledger, self.ring, self.worker_id)
        self._send = send
        self._end = end
        self._introduce = introduce
        self.engine_died = False
        self.newer_ledger: LedgerVersionMismatch | None = None  # why this worker ends, if that is why
        self.recipe = ""  # once the model is loaded
        self._load = load
        self._served: Served | None = None
        self._held: set[tuple[str, str, int]] = set()  # Celery's task id, which a repeated bell has too; job id, fence
        self._hurried = False
        self._draining = threading.Event()

    def _ledger(self, client: Any) -> Ledger:
        return Ledger(
            client,
            retention_seconds=self.settings.retention_seconds,
            bell_seconds=self.settings.bell_seconds,
            max_crashes=self.settings.max_crashes,
            on_closed=log_job,
            on_lost=log_lost,
        )

    @property
    def engine(self) -> ServedEngine:
        assert self._served is not None, "start() loads the model"
        return self._served.engine

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    def start(self) -> None:
        """Loads the model. Raises ModelFileError."""
        self._heartbeat.start()
        started = time.monotonic()
        try:
            self._served = self._load(self.settings, self.publisher.put)
        except BaseException:
            self._heartbeat.stop()
            raise
        served, card = self._served, self._served.card()
        self.recipe = served.recipe
        self._introduce(self.worker_id)
        self.publisher.start(self)
        served.engine.start(self._on_death)
        self._reaper.start()
        self._heartbeat.ready(
            served.engine, card, served.longest, served.optimizations, self.recipe, self._look_at_file
        )
        log.info(
            "ready",
            worker_id=self.worker_id,
            model=card.name,
            slots=self.settings.slots,
            threads=self.settings.threads,
            n_ctx=card.n_ctx,
            seconds=round(time.monotonic() - started, 2),
        )

    def _look_at_file(self) -> None:
        """Once per heartbeat. Tokens of other weights must not get into any stream."""
        if self._served is not None and not self.engine_died and self._served.is_overwritten():
            log.error(
                "the model's file was written to, this worker ends; to change a model, put a new file in its place",
                worker_id=self.worker_id,
                path=str(self.settings.model),
            )
            self.engine_died = True
            self.begin_drain()
            self._end()

    def _on_death(self) -> None:
        """In the engine's thread, which is ending."""
        log.error("the engine died, this worker ends; its jobs go back to the queue", worker_id=self.worker_id)
        self.engine_died = True
        self.begin_drain()
        self._end()

    def _on_newer_ledger(self, error: LedgerVersionMismatch) -> None:
        """In the heartbeat's thread, again and again until the end."""
        if not self.draining:
            log.error("a newer program has the ledger, this worker ends", reason=error.message)
            self.newer_ledger = error
            self.begin_drain()
            self._end()

    def prompt_ids(self, claim: Claim) -> tuple[int, ...]:
        assert self._served is not None, "start() loads the model"
        return prompt_ids(claim.request, self._served.tokenizer, self._served.chat, created_at=claim.created_at)

    def benchmark(self, kind: BenchmarkType, iterations: int) -> BenchmarkResult:
        """Measure beside the engine, which goes on with its jobs, slower. Raises BenchmarkRunning: one at a time, or
        they would measure each other."""
        if not self._benchmarking.acquire(blocking=False):
            raise BenchmarkRunning("this worker runs a benchmark already", retry_after_seconds=5.0)
        try:
            assert self._served is not None, "start() loads the model"
            with self.solitude.company(self._draining.is_set):  # a crash of it must not be blamed on a job
                measured = self._served.benchmark(kind, iterations, self._draining.is_set)
        finally:
            self._benchmarking.release()
        return BenchmarkResult(
            test_type=kind,
            iterations=iterations,
            total_time_ms=1000 * measured.seconds,
            average_time_ms=1000 * measured.seconds / iterations,
            tokens_per_second=iterations / measured.seconds if kind is BenchmarkType.TOKEN_GENERATION else None,
            speedup_vs_baseline=measured.baseline_average / (measured.seconds / iterations),
            baseline_iterations=measured.baseline_iterations,
            baseline_average_time_ms=1000 * measured.baseline_average,
            measured=measured.what,
            model=self.settings.served_name,
            worker_id=self.worker_id,
            threads=measured.n_threads,
        )

    def ring(self, bell: Bell) -> None:
        """Sends Celery's message. If that fails the bell is lost, and the reaper of some process will find out."""
        try:
            self._send(bell)
        except Exception as error:  # whatever kombu or redis-py raise
            log.warning("bell not rung", job_id=bell.job_id, error=type(error).__name__)

    @contextlib.contextmanager
    def holding(self, task_id: str, claim: Claim) -> Iterator[None]:
        """While the task works on the job: `terminate(task_id)` finds it."""
        key = (task_id, claim.job_id, claim.fence)
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)

    def terminate(self, task_id: str) -> None:
        """Celery wants the end of this task. If a person said so, the job is cancelled; if the worker shuts down, it
        goes back to the queue, with its tokens."""
        if self.draining:
            if not self._hurried:  # it blocks for up to a second, and releases all jobs at once
                self._hurried = True
                self.engine.drain(0.0)
            return
        for held, job_id, fence in tuple(self._held):
            if held == task_id:
                self.cancel(job_id, fence)

    # What the publisher hears from the ledger

    def cancel(self, job_id: str, fence: int) -> None:
        self.solitude.cancel((job_id, fence))
        self.engine.cancel(job_id, fence)

    def drop(self, job_id: str, fence: int) -> None:
        self.engine.drop(job_id, fence)
        self.solitude.leave((job_id, fence))  # its task may hang, and not hear of this

    def passed(self, job_id: str, fence: int) -> None:
        self.solitude.leave((job_id, fence))

    def begin_drain(self) -> None:
        """No new jobs from now on; the API sees it in the heartbeat."""
        self._draining.set()
        self._heartbeat.state = "draining"

    def drain(self, grace_seconds: float) -> None:
        """Running jobs may end within `grace_seconds`, then they are given back. Returns when no task waits any
        more, or when Redis did not take the last words in time."""
        self.begin_drain()
        if self._served is None:
            return
        if self._held:
            log.info("draining", jobs=len(self._held), seconds=grace_seconds)
        # The engine ends early when its last sequence does. A task between its claim and the engine gets its job back.
        self.engine.drain(0.0 if self.engine_died else grace_seconds)
        deadline = time.monotonic() + RELEASE_SECONDS
        while self._held and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._held:
            log.warning("jobs left to their leases", jobs=len(self._held))
            self.giving_up.set()
            self.publisher.give_up()

    def stop(self) -> None:
        """After the drain."""
        if self._served is None:
            return
        self.giving_up.set()
        self._reaper.stop()
        self.publisher.stop(timeout_seconds=2.0)
        self.engine.stop()
        self._heartbeat.stop()
        with self._benchmarking:  # it reads the mapped weights; draining ends it within one of its steps
            self._served.close()
        self._served = None
        self._client.close()
        self._writer_client.close()
