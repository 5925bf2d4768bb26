"""What goes into the ledger's calls and comes out of them, as frozen values. No Redis here."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, JobResult
from woolly_worker.ledger import keys


class ClaimOutcome(StrEnum):
    CLAIMED = "claimed"
    GONE = "gone"  # no such record
    TERMINAL = "terminal"  # it has ended
    BUSY = "busy"  # another claim holds a live lease
    CANCELLED = "cancelled"  # these three must not run; the ledger has closed them by the time you see this
    EXPIRED = "expired"
    POISON = "poison"
    NEWER = "newer"  # its request is newer than this program: left for a newer worker
    DAMAGED = "damaged"  # others have changed its record; the ledger has ended it
    UNREADABLE = "unreadable"  # claimed, but its request is none that this version knows; the ledger has ended it


@dataclass(frozen=True, slots=True)
class Claim:
    """A job as its new owner gets it. `fence` is the proof of ownership that every later call carries."""

    job_id: str
    fence: int
    request: JobRequest  # with the seed resolved
    attempt: int
    crashes: int
    token_ids: tuple[int, ...]  # already in the stream: generation goes on behind them
    text: str  # what those tokens said
    created_at: float  # Unix seconds by Redis's clock, as all times here
    queued_at: float
    claimed_at: float
    first_token_at: float | None
    deadline_remaining_seconds: float | None

    @property
    def last_seq(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The bell was a duplicate, or the job must not run. Nothing is left to do for whoever took the message."""

    job_id: str
    outcome: ClaimOutcome


class Reply(StrEnum):
    """What the ledger says to a write."""

    OK = "ok"
    CANCELLED = "cancelled"  # written, and somebody asked for the end of this job
    FENCED = "fenced"  # not yours any more: drop the sequence
    DAMAGED = "damaged"  # nothing can be written: others have changed its record or its stream
    GAP = "gap"  # the server lost tokens that it had acknowledged: give the job back, it goes on from the stream


@dataclass(frozen=True, slots=True)
class Emission:
    """One token, or (`event` a StateEvent or None) a renewed lease without one."""

    job_id: str
    fence: int
    event: TokenEvent | StateEvent | None = None

    @property
    def seq(self) -> int:
        return self.event.seq if isinstance(self.event, TokenEvent) else 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a job. `token_ids` and `text` are those of the whole completion, resumed tokens included."""

    job_id: str
    fence: int
    model: str
    event: DoneEvent | FailedEvent
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    reply: Reply
    result: JobResult  # as written, unless the reply says that nothing was


@dataclass(frozen=True, slots=True)
class Bell:
    """A Celery message to be sent: the job id and nothing else of the job."""

    job_id: str
    model: str
    lane: int
    priority: int
    number: int  # bells rung for this job so far; makes every message's task id fresh
    front: bool = False  # it has waited before: after ringing, `Ledger.to_front` lets it be the next

    @property
    def task_id(self) -> str:
        return f"{self.job_id}.{self.number}"

    def send_task_options(self) -> dict[str, Any]:
        """Keyword arguments for Celery's `send_task`. The same on both sides, so that Flower shows one kind of task."""
        return {
            "name": keys.TASK_GENERATE,
            "args": (self.job_id,),
            "task_id": self.task_id,
            "queue": keys.queue(self.model, self.lane),
            "priority": self.priority,
            "shadow": f"generate[{self.model}]",
            "argsrepr": f"('{self.job_id}',)",
            "kwargsrepr": "{}",
            "ignore_result": True,
            "retry": False,
        }


@dataclass(frozen=True, slots=True)
class BenchmarkCall:
    """A Celery message that asks a worker of this model for a benchmark. It may be lost: the caller then hears of it.

    `expires_seconds`: nobody waits for the answer any longer.
    """

    call_id: str
    model: str
    test_type: str
    iterations: int
    expires_seconds: float

    @property
    def job_id(self) -> str:
        """What logs know it by, where they know a bell by its job."""
        return self.call_id

    def send_task_options(self) -> dict[str, Any]:
        """Keyword arguments for Celery's `send_task`."""
        return {
            "name": keys.TASK_BENCHMARK,
            "args": (self.call_id, self.test_type, self.iterations),
            "task_id": self.call_id,
            "queue": keys.queue(self.model, 0),
            "priority": 0,
            "expires": self.expires_seconds,
            "shadow": f"benchmark[{self.model}]",
            "ignore_result": True,
            "retry": False,
        }


@dataclass(frozen=True, slots=True)
class Released:
    reply: Reply
    bell: Bell | None = None  # to be rung when the reply is OK


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: str
    bell: Bell | None  # None: the same id had been submitted before, its bell was rung then


@dataclass(frozen=True, slots=True)
class BrokenJob:
    """A job that the reaper could not look at: its record is damaged, or it hit a bug of ours."""

    job_id: str
    reason: str  # never what the record says


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one turn of the reaper found. Bells are for the caller to ring, broken jobs to log; the rest is done."""

    bells: tuple[Bell, ...]
    closed: tuple[str, ...]
    broken: tuple[BrokenJob, ...] = ()

    @property
    def n_jobs(self) -> int:
        return len(self.bells) + len(self.closed) + len(self.broken)


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """Jobs of one model. queued and running are gauges, the others totals since the model was first served."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
