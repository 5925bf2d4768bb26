"""Rings a worker: sends Celery the message that a job waits. The only Celery import on this side.

Off the request path: `ring` puts the bell into a bounded queue and returns; a thread sends. A bell may get lost (broker
away, queue full, process killed). That is counted and logged, and the reaper rings again; the job is in the ledger.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from woolly_api.telemetry import log
from woolly_worker.ledger import keys
from woolly_worker.ledger.address import RedisAddress
from woolly_worker.ledger.records import Bell, BenchmarkCall

CLOSE_SECONDS = 2.0


class Doorbell:
    """Owns one thread and one Celery producer connection, both made by `warm` or with the first bell."""

    def __init__(self, redis_url: str, *, capacity: int, count: Callable[[str], None] = lambda outcome: None) -> None:
        """`count` is told 'rung', 'failed' or 'dropped' for every bell."""
        self._redis_url = redis_url
        self._waiting: queue.Queue[Bell | BenchmarkCall | None] = queue.Queue(maxsize=capacity)
        self._count = count
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._given_up = threading.Event()

    def warm(self) -> None:
        """Load Celery now, in the background, so that the first job does not wait half a second for it."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
            self._thread.start()

    def ring(self, bell: Bell | BenchmarkCall) -> None:
        """Never blocks, never raises."""
        with self._lock:
            if self._closed:
                self._lost(bell, "dropped", "the doorbell is closed")
                return
            self._start()
        try:
            self._waiting.put_nowait(bell)
        except queue.Full:
            self._lost(bell, "dropped", f"{self._waiting.maxsize} bells wait already")

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Sends what waits, for so long; the rest is the reaper's."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        deadline = time.monotonic() + timeout_seconds
        while thread.is_alive() and time.monotonic() < deadline:
            try:
                self._waiting.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        thread.join(max(0.0, deadline - time.monotonic()))
        self._given_up.set()

    def _run(self) -> None:
        celery = _celery(self._redis_url)
        try:
            while (bell := self._next()) is not None:
                try:
                    celery.send_task(**bell.send_task_options())
                except Exception as error:  # whatever kombu or redis-py raise: the bell is lost, the job is not
                    self._lost(bell, "failed", f"{type(error).__name__}: {error}")
                else:
                    self._count("rung")
        finally:
            celery.close()

    def _next(self) -> Bell | BenchmarkCall | None:
        """The next bell to send, or None at the end. With the broker away one attempt takes seconds (redis-py's own
        retries, which kombu leaves no way to set), so what is left after `close` is dropped without one."""
        while not self._given_up.is_set():
            bell = self._waiting.get()
            if bell is None or not self._given_up.is_set():
                return bell
            self._lost(bell, "dropped", "the doorbell is closed")
        while not self._waiting.empty():
            if (bell := self._waiting.get()) is not None:
                self._lost(bell, "dropped", "the doorbell is closed")
        return None

    def _lost(self, bell: Bell | BenchmarkCall, outcome: str, reason: str) -> None:
        self._count(outcome)
        again = "" if isinstance(bell, BenchmarkCall) else ", the reaper will"
        log.warning(f"bell not rung{again}", job_id=bell.job_id, outcome=outcome, reason=reason)


def _celery(redis_url: str) -> Any:
    """A Celery app that only sends. Imported here: it takes half a second that startup does not have to wait for."""
    from celery import Celery

    broker = RedisAddress.parse(redis_url).broker()
    app = Celery("woolly-api", broker=broker.url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=broker.use_ssl,
        broker_transport_options={
            **keys.BROKER_TRANSPORT_OPTIONS,
            **broker.transport_options,
            # A stalled server holds this thread, not a request; but not for long.
            "socket_timeout": 2,
        },
        task_ignore_result=True,
        task_default_priority=keys.BELL_PRIORITY,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app
