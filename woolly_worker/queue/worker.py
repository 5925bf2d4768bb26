"""`woolly worker`: a Celery worker in this process, with the engine in its pool, for the jobs of one model.

SIGTERM and Ctrl-C drain: nothing new is taken, running jobs may end within `drain_seconds`, the others go back to the
front of the queue with what they have generated. A second Ctrl-C does not wait. kill -9 is what leases are for.
"""

import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

from celery import signals
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning
from celery.worker import state as celery_state

from woolly_worker.contract.errors import WoollyError
from woolly_worker.ledger import versions
from woolly_worker.ledger.connection import check_server, connect
from woolly_worker.ledger.persistence import read_persistence
from woolly_worker.queue import tasks
from woolly_worker.queue.app import create_worker_app
from woolly_worker.queue.loading import Progress, load_model
from woolly_worker.queue.pool import EXIT_FAILURE
from woolly_worker.queue.runtime import Loader, Runtime
from woolly_worker.settings import SHORTEST_LEASE_SECONDS, WorkerSettings
from woolly_worker.telemetry import configure_logging, log


class EngineWorker(Worker):
    """Celery's worker, except that a cold shutdown waits only while there is something to wait for."""

    def wait_for_soft_shutdown(self) -> None:
        """Celery's own sleeps for the whole time, also when the last job has long ended."""
        runtime: Runtime = self.app.runtime
        hurry = runtime.draining  # a drain is under way: whoever signals again does not want to wait
        runtime.begin_drain()
        deadline = time.monotonic() + (0.0 if hurry else self.app.settings.drain_seconds)
        while celery_state.active_requests and time.monotonic() < deadline:
            time.sleep(0.02)


def make_worker(settings: WorkerSettings, load: Loader, introduce: Callable[[str], None]) -> Any:
    """The worker, not started."""
    app = create_worker_app(settings)
    app.settings = settings
    app.startup_error = None
    app.runtime = Runtime(
        settings, load, send=lambda bell: app.send_task(**bell.send_task_options()), end=_end, introduce=introduce
    )
    tasks.register(app)
    return EngineWorker(
        app=app,
        hostname=f"{settings.served_name}.{app.runtime.worker_id.rsplit('-', 1)[-1]}@{socket.gethostname()}",
        concurrency=settings.slots,
        pool=app.conf.worker_pool,
        loglevel=settings.log_level.upper(),
        task_events=True,
        without_mingle=True,
        without_gossip=True,
        quiet=True,
    )


def _end() -> None:
    """From any thread: Celery's loop looks at this about once a second, and drains."""
    celery_state.should_stop = EXIT_FAILURE


def run(
    settings: WorkerSettings, load: Loader | None = None, introduce: Callable[[str], None] = lambda worker_id: None
) -> int:
    """Serves until a signal. Returns the exit status. Raises LedgerUnavailable or ModelFileError if it cannot start,
    and LedgerVersionMismatch also when a newer program takes the ledger over. `introduce` hears the worker's id before
    it takes a job."""
    configure_logging(settings.log_level, settings.log_format)
    # Celery warns root of pickled messages, which this worker does not accept. Containers run as root.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    with closing(connect(settings.redis_url, timeout_seconds=2.0)) as client:
        version = check_server(client)
        versions.agree(client)
        persistence = read_persistence(client)
    log.info("starting", model=settings.served_name, redis_version=version, **persistence.fields())
    if not persistence.keeps_jobs:
        log.warning("redis may lose jobs: its append-only file is off", **persistence.fields())
    tell_short_lease(settings)
    worker = make_worker(settings, load or _load_and_tell, introduce)
    worker.start()
    if getattr(worker.pool, "stuck", False):
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)  # an ordinary exit would wait for the thread; the leases hand its job on
    error: WoollyError | None = worker.app.startup_error
    if error is not None:
        raise error
    if worker.app.runtime.newer_ledger is not None:
        raise worker.app.runtime.newer_ledger
    if worker.app.runtime.engine_died:
        return EXIT_FAILURE
    # Celery calls Ctrl-C a failure. Asked to stop and stopped is a success, whoever asked.
    asked = any(flag not in (None, False) for flag in (celery_state.should_stop, celery_state.should_terminate))
    return 0 if asked else int(worker.exitcode or 0)


def tell_short_lease(settings: WorkerSettings) -> None:
    if settings.lease_seconds < SHORTEST_LEASE_SECONDS:
        log.warning(
            "the lease is short: while redis is away, jobs may be taken for lost",
            lease_seconds=settings.lease_seconds,
            shortest_seconds=SHORTEST_LEASE_SECONDS,
        )


def _load_and_tell(settings: WorkerSettings, on_events: Any) -> Any:
    return load_model(settings, on_events, _progress_lines())


def _progress_lines() -> Progress:
    """Loading as log lines: every stage once, and every further quarter of a long one."""
    told: dict[str, int] = {}

    def tell(stage: str, share: float | None) -> None:
        quarter = int((share or 0.0) * 4)
        if told.get(stage, -1) < quarter:
            told[stage] = quarter
            percent = {} if share is None else {"percent": round(share * 100)}
            log.info("loading", stage=stage, **percent)

    return tell


def _keep_our_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring the loggers."""
