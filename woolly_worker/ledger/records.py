"""What goes into the ledger's calls and comes out of them, as frozen values. No Redis here."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, JobResult
from woolly_worker.ledger import keys
from woolly_worker.ledger.clocks import Clock, Measured


class ClaimOutcome(StrEnum):
    CLAIMED = "claimed"
    GONE = "gone"  # no such record
    TERMINAL = "terminal"  # it has ended
    BUSY = "busy"  # another claim holds a live lease
    CANCELLED = "cancelled"  # these three must not run; the ledger has closed them by the time you see this
    EXPIRED = "expired"
    POISON = "poison"
    SUSPECT = "suspect"  # only for who works on nothing else and says so: it was there when workers were lost
    OTHER_RECIPE = "other_recipe"  # its tokens so far were computed from other weights: left to whoever has them
    NEWER = "newer"  # its request is newer than this program: left to a newer worker
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
    clock: Clock = field(compare=False)  # Redis's and the caller's, just behind the claim
    token_ids: tuple[int, ...]  # already in the stream: generation goes on behind them
    text: str  # what those tokens said
    created_at: float  # Unix seconds by Redis's clock, as all times here
    queued_at: float
    claimed_at: float
    first_token_at: float | None
    deadline_remaining_seconds: float | None
    alone_until: int | None = None  # under suspicion: nothing else is computed until it has so many tokens

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
    n_prompt: int | None = None  # tokens of the prompt, to be kept in the record

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
    measured: Measured | None = None  # of this attempt, if it reached the engine


@dataclass(frozen=True, slots=True)
class Finished:
    reply: Reply
    result: JobResult  # as written, unless the reply says that nothing was


@dataclass(frozen=True, slots=True)
class Bell:
    """A Celery message to be sent: the job id and nothing else of the job. Whoever takes it serves the job that is next
    in its model's fair order, which may be another one: bells count jobs, lanes order them."""

    job_id: str
    model: str
    number: int  # bells rung for this job so far; makes every message's task id fresh

    @property
    def task_id(self) -> str:
        return f"{self.job_id}.{self.number}"

    def send_task_options(self) -> dict[str, Any]:
        """Keyword arguments for Celery's `send_task`. The same on both sides, so that Flower shows one kind of task."""
        return {
            "name": keys.TASK_GENERATE,
            "args": (self.job_id,),
            "task_id": self.task_id,
            "queue": keys.queue(self.model),
            "priority": keys.BELL_PRIORITY,
            "shadow": f"generate[{self.model}]",
            "argsrepr": f"('{self.job_id}',)",
            "kwargsrepr": "{}",
            "ignore_result": True,
            "retry": False,
        }


@dataclass(frozen=True, slots=True)
class BenchmarkCall:
    """A Celery message that asks a worker of this model for a benchmark. It may be lost: the caller then hears of it.

    Not with Celery's `expires`: that is a time by the sender's clock, which the worker compares with its own.
    """

    call_id: str
    model: str
    test_type: str
    iterations: int

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
            "queue": keys.queue(self.model),
            "priority": keys.BENCHMARK_PRIORITY,
            "shadow": f"benchmark[{self.model}]",
            "ignore_result": True,
            "retry": False,
        }


@dataclass(frozen=True, slots=True)
class Released:
    reply: Reply
    bell: Bell | None = None  # to be rung when the reply is OK


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key as a caller gave it. Of all submits of a tenant under one key, the first makes the job."""

    key: str
    digest: str  # of the request as it came, before a seed is drawn: another one under the same key is an error


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: str
    bell: Bell | None  # None: the same id had been submitted before, its bell was rung then
    replayed: bool = False  # the job is that of an earlier submit under the same idempotency key


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
    abandoned: tuple[str, ...] = ()  # nobody follows them any more: asked to end
    away_seconds: float = 0.0  # an absence of Redis that is over
    n_extended: int = 0  # leases that would have run out in it
    n_due: int = 0  # jobs that were looked at

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
    queued_tokens: int = 0  # what the queued ones may take, by the estimate at submit
