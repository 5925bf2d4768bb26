"""Death certificates: how a worker's process ended, written by whoever waited for it, read with a job's history.

A certificate stands beside the records of jobs, not in them: it may come before a lost lease is noticed or after.
Whoever writes one has seen the end of that process, so nobody has to wait until its leases run out.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import redis

from woolly_worker.contract.losses import WorkerEnding
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import load_scripts, translated_errors
from woolly_worker.ledger.foreign import readable

SCANNED_AT_ONCE = 500


class Deaths:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._orphan = load_scripts(client)["orphan"]

    def certify(
        self, worker_id: str, *, signal: str | None, exit_code: int | None, out_of_memory: bool | None
    ) -> list[str]:
        """Records that the process of `worker_id` has ended, and ends its leases: the next turn of any reaper hands its
        jobs on. Returns their ids. Only for whoever has waited for that process. May be called again."""
        with translated_errors():
            seconds, micros = self.client.time()
            ending = WorkerEnding(
                ended_at=int(seconds) + int(micros) / 1e6,
                signal=signal,
                exit_code=exit_code,
                out_of_memory=out_of_memory,
            )
            self.client.set(
                keys.death(worker_id), ending.model_dump_json(exclude_none=True), ex=keys.DEATH_TTL_SECONDS, nx=True
            )
            return [
                job_id
                for job_id in self._held_by(worker_id)
                if self._orphan(keys=[keys.job(job_id), keys.OPEN_JOBS, keys.REAPER_SEEN], args=[job_id, worker_id])
            ]

    def of(self, worker_ids: Iterable[str]) -> dict[str, WorkerEnding]:
        """What is known about the ends of these workers."""
        wanted = sorted(set(worker_ids))
        if not wanted:
            return {}
        with translated_errors():
            texts = cast(Sequence[str | None], self.client.mget([keys.death(worker_id) for worker_id in wanted]))
        return endings_of(wanted, texts)

    def _held_by(self, worker_id: str) -> list[str]:
        """Looks through all open jobs, a batch per call, so that a long backlog holds up nobody."""
        held: list[str] = []
        cursor = 0
        while True:
            cursor, entries = cast(Any, self.client.zscan(keys.OPEN_JOBS, cursor, count=SCANNED_AT_ONCE))
            pipe = self.client.pipeline(transaction=False)
            for job_id, _ in entries:
                pipe.hget(keys.job(job_id), "owner")
            owners = pipe.execute(raise_on_error=False)  # a key of another type is no job of this worker
            held += [job_id for (job_id, _), owner in zip(entries, owners, strict=True) if owner == worker_id]
            if cursor == 0:
                return held


def endings_of(worker_ids: Sequence[str], texts: Sequence[str | None]) -> dict[str, WorkerEnding]:
    """By worker id, from what their certificates say; those without one that can be read are left out."""
    return {
        worker_id: ending
        for worker_id, text in zip(worker_ids, texts, strict=True)
        for ending in readable("death certificate", [(worker_id, text)], WorkerEnding.model_validate_json)
    }
