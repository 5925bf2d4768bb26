"""A thread that heals: lost leases, lost bells, jobs past their deadline. Every worker and every API has one, and of
all of them one at a time works.

The ledger decides and closes; this thread asks it, and rings the bells that it names. A bell that could not be rung is
lost like any other, and found by a later turn.
"""

import threading
from collections.abc import Callable

import structlog

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.ledger.ledger import REAP_BATCH, Ledger
from woolly_worker.ledger.records import Bell
from woolly_worker.telemetry import log_bug

TURN_SECONDS = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("woolly.reaper")


class Reaper:
    def __init__(
        self, ledger: Ledger, ring: Callable[[Bell], None], owner: str, *, turn_seconds: float = TURN_SECONDS
    ) -> None:
        """`owner` says in Redis whose turn it is."""
        self._ledger = ledger
        self._ring = ring
        self._owner = owner
        self._turn_seconds = turn_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def turn(self) -> None:
        """One look at everything that is due, if no other reaper has this turn."""
        if not self._ledger.reaper_turn(self._owner, seconds=self._turn_seconds):
            return
        while not self._stop.is_set():
            reaped = self._ledger.reap()
            if reaped.away_seconds:
                tell = log.warning if reaped.n_extended else log.info  # a whole cluster may have been stopped
                tell("redis was away", seconds=reaped.away_seconds, leases_extended=reaped.n_extended)
            for job in reaped.broken:
                log.error("the reaper cannot look at a job", job_id=job.job_id, reason=job.reason)
            for job_id in reaped.abandoned:
                log.info("job cancelled, nobody follows it", job_id=job_id)
            for bell in reaped.bells:
                log.info("bell rung again", job_id=bell.job_id, number=bell.number)
                self._ring(bell)
            if reaped.n_due < REAP_BATCH:
                return

    def _run(self) -> None:
        away = False
        while not self._stop.is_set():  # the first turn at once: it ends a silence, before there is anything to lose
            try:
                self.turn()
                away = False
            except LedgerUnavailable as error:
                if not away:  # one line per absence of Redis
                    log.warning("the reaper waits for redis", reason=error.message)
                away = True
            except Exception as error:
                log_bug("a turn of the reaper failed", error)
            self._stop.wait(self._turn_seconds)
