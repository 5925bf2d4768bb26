"""A job's timeline, made from its record: times that Redis wrote, and what workers measured between them.

The field `timeline` of a job's hash has a line for each attempt that is over: what the ledger knew when it ended, as
JSON, a tab, and what its worker had measured (Recorded), as JSON, or nothing if the worker was lost with it. Lines are
only ever appended, by finish.lua, release.lua and whoever notices a lost lease.
"""

from collections.abc import Sequence

import redis
from pydantic import BaseModel, ConfigDict

from woolly_worker.contract.errors import InternalError, JobNotFound
from woolly_worker.contract.timeline import (
    AttemptEnd,
    MeasuredPart,
    PartKind,
    StallCause,
    Timeline,
    TimelineAttempt,
    TimelinePart,
)
from woolly_worker.ledger.clocks import Clock, Measured, look

# In the order in which timeline_of takes them.
TIMELINE_FIELDS = [
    "created_ms",
    "claimed_ms",
    "finished_ms",
    "attempts",
    "seq",
    "owner",
    "lease_ms",
    "lease_for_ms",
    "timeline",
]
# A worker that lives is heard with every step, and steps are bound to a quarter of a lease.
QUIET_SHARE = 0.5


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Recorded(_Stored):
    """What a worker measured, by Redis's clock."""

    began_ms: float
    ended_ms: float
    parts: tuple[MeasuredPart, ...]


class _Attempt(_Stored):
    """What the ledger wrote about an attempt when it was over (`note_attempt` in shared.lua)."""

    attempt: int
    owner: str
    claimed_ms: int
    alive_ms: int  # the last sign of life of its worker
    ended_ms: int
    seq: int  # tokens in the stream by then, those of earlier attempts included
    end: AttemptEnd


def dump(measured: Measured, clock: Clock) -> str:
    """The worker's part of a line, with Redis's clock as it is seen now. What is not there takes no room."""
    ended_ms = clock.ms_at(measured.ended_at)
    recorded = Recorded(began_ms=measured.began_ms, ended_ms=ended_ms, parts=measured.parts)
    return recorded.model_dump_json(exclude_defaults=True)


def told(measured: Measured | None, client: redis.Redis) -> str:
    """The same for an attempt that may have measured nothing. Asks Redis for its clock."""
    return "" if measured is None else dump(measured, look(client))


def timeline_of(job_id: str, fields: Sequence[str | None], now_ms: int) -> Timeline:
    """`fields` are those of TIMELINE_FIELDS; `now_ms` is Redis's time when they were read. Raises JobNotFound for a
    record that is not there, or no longer, and InternalError if the lines are none of this version's."""
    created, claimed, finished, attempts, seq, owner, lease, lease_for, text = fields
    if created is None:
        raise JobNotFound(f"no job '{job_id}'")
    try:
        began_ms, n_attempts, n_tokens = int(created), int(attempts or 0), int(seq or 0)
        claimed_ms, finished_ms = (None if moment is None else int(moment) for moment in (claimed, finished))
        lease_ms, lease_for_ms = int(lease or 0), int(lease_for or 0)
        lines = [_line(line) for line in (text or "").split("\n") if line]
    except ValueError:  # pydantic's, too. Not `from` it: what Python says of a number that is none quotes it
        raise InternalError(f"the recorded timeline of job '{job_id}' cannot be read") from None
    end_ms = max(began_ms, now_ms if finished_ms is None else finished_ms)

    cut = _Cut(began_ms)
    spans = []
    for attempt, recorded in lines:
        cut.attempt(attempt, recorded)
        spans.append(_span(attempt, began_ms))
    if n_attempts > len(lines) and claimed_ms is not None:
        # Claimed and not over. Or it ended under a version that told no timelines.
        cut.until(PartKind.QUEUED, claimed_ms)
        cut.n_attempt = n_attempts
        alive_ms = max(claimed_ms, lease_ms - lease_for_ms) if lease_ms else end_ms
        if end_ms - alive_ms < QUIET_SHARE * lease_for_ms:
            alive_ms = end_ms
        cut.until(PartKind.RUNNING, alive_ms, n_tokens=n_tokens - cut.seq)
        if alive_ms < end_ms:
            cut.until(PartKind.STALL, end_ms, cause=StallCause.SILENT)
        claimed_seconds = (claimed_ms - began_ms) / 1000
        spans.append(TimelineAttempt(attempt=cut.n_attempt, worker_id=owner or "", claimed_seconds=claimed_seconds))
    elif finished_ms is None or end_ms > cut.at_ms:
        cut.until(PartKind.QUEUED, end_ms)
    seconds = (end_ms - began_ms) / 1000
    return Timeline(
        seconds=seconds,
        unattributed_seconds=round(seconds - sum(part.seconds for part in cut.parts), 6),
        parts=tuple(cut.parts),
        attempts=tuple(spans),
    )


def _line(line: str) -> tuple[_Attempt, Recorded | None]:
    attempt, _, recorded = line.partition("\t")
    return _Attempt.model_validate_json(attempt), Recorded.model_validate_json(recorded) if recorded else None


def _span(attempt: _Attempt, began_ms: int) -> TimelineAttempt:
    return TimelineAttempt(
        attempt=attempt.attempt,
        worker_id=attempt.owner,
        claimed_seconds=(attempt.claimed_ms - began_ms) / 1000,
        ended_seconds=(attempt.ended_ms - began_ms) / 1000,
        end=attempt.end,
    )


class _Cut:
    """Cuts the time since submit into parts, one behind the other. `at_ms` is how far it has come."""

    def __init__(self, began_ms: int) -> None:
        self.parts: list[TimelinePart] = []
        self.at_ms: float = began_ms
        self.n_attempt = 0
        self.seq = 0  # tokens of the attempts so far
        self._began_ms = began_ms

    def attempt(self, attempt: _Attempt, recorded: Recorded | None) -> None:
        """One that is over, and the wait before it."""
        self.until(PartKind.QUEUED, attempt.claimed_ms)
        self.n_attempt = attempt.attempt
        n_tokens, self.seq = attempt.seq - self.seq, attempt.seq
        if recorded is not None:
            # Redis cuts its times to whole milliseconds, so what was measured may end behind the end. It lies earlier
            # then; the time between claim and engine, which nobody measured, is shorter by as much.
            behind_ms = max(0.0, recorded.ended_ms - attempt.ended_ms)
            shift_ms = min(behind_ms, max(0.0, recorded.began_ms - attempt.claimed_ms))
            self.until(PartKind.STARTING, recorded.began_ms - shift_ms)
            self.measured(recorded)
            self.at_ms -= shift_ms
            self.until(PartKind.WRITING, attempt.ended_ms)
        elif attempt.end is AttemptEnd.LOST:
            alive_ms = min(max(attempt.claimed_ms, attempt.alive_ms), attempt.ended_ms)
            self.until(PartKind.RUNNING, alive_ms, n_tokens=n_tokens)
            self.until(PartKind.LOST, attempt.ended_ms)
        else:
            self.until(PartKind.RUNNING, attempt.ended_ms, n_tokens=n_tokens)
        self.at_ms = attempt.ended_ms

    def until(self, kind: PartKind, end_ms: float, *, n_tokens: int = 0, cause: StallCause | None = None) -> None:
        """From where it is to `end_ms`; nothing if that has passed by the worker's clock."""
        seconds = max(0.0, round((end_ms - self.at_ms) / 1000, 6))
        self._add(MeasuredPart(kind=kind, cause=cause, seconds=seconds, n_tokens=n_tokens or None))
        self.at_ms = end_ms

    def measured(self, recorded: Recorded) -> None:
        for part in recorded.parts:
            self._add(part)
            self.at_ms += 1000 * part.seconds
        self.at_ms = recorded.ended_ms

    def _add(self, part: MeasuredPart) -> None:
        start_seconds = round((self.at_ms - self._began_ms) / 1000, 6)
        self.parts.append(TimelinePart(**dict(part), attempt=self.n_attempt, start_seconds=start_seconds))
