"""A submit on its way into submit.lua and out of it: keys, arguments, and what each answer means."""

import secrets
from dataclasses import dataclass

from woolly_worker.contract.errors import IdempotencyKeyReused, LedgerFull, QueueFull
from woolly_worker.contract.jobs import MAX_SEED, JobRequest
from woolly_worker.ledger import keys, views
from woolly_worker.ledger.backlog import cost_tokens
from woolly_worker.ledger.records import Bell, Once, Submitted

FULL_RETRY_SECONDS = 10.0  # memory comes back with every record that expires


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The arguments of Ledger.submit."""

    job_id: str
    request: JobRequest
    once: Once | None
    follow_seconds: float | None
    max_queued: int | None
    max_queued_tokens: int | None

    def keys(self) -> list[str]:
        request = self.request
        names = [keys.job(self.job_id), keys.OPEN_JOBS, keys.lanes(request.model), keys.FOLLOWED_JOBS]
        return names if self.once is None else [*names, keys.once(request.tenant, self.once.key)]

    def args(self, look_ms: int) -> list[str | int]:
        request = self.request
        return [
            self.job_id,
            request.model,
            keys.lane(request.priority, request.tenant),
            request.priority,
            request.tenant,
            views.dump_metadata(request.metadata),
            _with_seed(request).model_dump_json(exclude_none=True),
            _milliseconds(request.deadline_seconds),
            look_ms,
            "" if self.max_queued is None else self.max_queued,
            cost_tokens(request),
            "" if self.max_queued_tokens is None else self.max_queued_tokens,
            _milliseconds(self.follow_seconds),
            *(() if self.once is None else (self.once.digest,)),
        ]

    def outcome(self, status: str, found: int | str, *limit: int) -> Submitted:
        """What the script answered. Raises QueueFull, LedgerFull or IdempotencyKeyReused."""
        model = self.request.model
        if status == "submitted":
            return Submitted(self.job_id, Bell(self.job_id, model, int(found)))
        if status == "replayed":
            return Submitted(str(found), None, replayed=True)
        if status == "reused":
            raise IdempotencyKeyReused(
                "this Idempotency-Key came with another body before; `details` names the job of that one",
                param="Idempotency-Key",
                details={"job_id": found},
            )
        if status == "full":
            raise QueueFull(
                f"{found} {'job' if found == 1 else 'jobs'} of model '{model}' queued, the limit is {self.max_queued}",
                details={"queued": found, "limit": self.max_queued},
            )
        if status == "full_tokens":
            cost = cost_tokens(self.request)
            raise QueueFull(
                f"jobs of {found} tokens of model '{model}' are queued, this one may take {cost}, and the limit is "
                f"{self.max_queued_tokens}",
                details={"queued_tokens": found, "job_tokens": cost, "limit": self.max_queued_tokens},
            )
        if status == "memory":
            raise LedgerFull(
                f"Redis uses {found} bytes of memory, new jobs are taken up to {limit[0]}",
                retry_after_seconds=FULL_RETRY_SECONDS,
                details={"used_bytes": found, "limit_bytes": limit[0]},
            )
        return Submitted(self.job_id, None)


def _with_seed(request: JobRequest) -> JobRequest:
    """Drawn here and stored, so that a resumed job continues as it would have without the interruption."""
    if request.sampling.seed is not None:
        return request
    sampling = request.sampling.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})
    return request.model_copy(update={"sampling": sampling})


def _milliseconds(seconds: float | None) -> int | str:
    return "" if seconds is None else max(1, int(seconds * 1000))
