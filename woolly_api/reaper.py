"""The API's turn at healing: lost leases, lost bells, jobs past their deadline. Workers take turns at the same.

The ledger decides and closes; this thread only asks it, and rings the bells that it names.
"""

import threading
import uuid
from collections.abc import Callable

from woolly_api.telemetry import log
from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.ledger.ledger import REAP_BATCH, Ledger
from woolly_worker.ledger.records import Bell

TURN_SECONDS = 1.0


class Reaper:
    def __init__(self, ledger: Ledger, ring: Callable[[Bell], None], *, turn_seconds: float = TURN_SECONDS) -> None:
        self._ledger = ledger
        self._ring = ring
        self._turn_seconds = turn_seconds
        self._owner = f"api-{uuid.uuid4().hex}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        away = False
        while not self._stop.is_set():  # the first turn at once: it ends a silence, before there is anything to lose
            try:
                self.turn()
            except LedgerUnavailable as error:
                if not away:  # one line per absence of Redis, not one per second
                    log.warning("reaper waits", code=error.code, reason=error.message)
                away = True
            except Exception:
                log.exception("reaper turn failed")
            else:
                away = False
            self._stop.wait(self._turn_seconds)

    def turn(self) -> None:
        """One look at what is due, if no other reaper has this turn."""
        if not self._ledger.reaper_turn(self._owner, seconds=self._turn_seconds):
            return
        while not self._stop.is_set():
            reaped = self._ledger.reap()
            if reaped.away_seconds:
                log.warning("redis was away", seconds=reaped.away_seconds, leases_extended=reaped.n_extended)
            for job in reaped.broken:
                log.error("the reaper cannot look at a job", job_id=job.job_id, reason=job.reason)
            for bell in reaped.bells:
                log.info("bell rung again", job_id=bell.job_id, number=bell.number)
                self._ring(bell)
            for job_id in reaped.abandoned:
                log.info("job cancelled, nobody follows it", job_id=job_id)
            if reaped.n_due < REAP_BATCH:
                return
