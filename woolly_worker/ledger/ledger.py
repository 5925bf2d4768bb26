"""The record of every job: one method per transition, each a single Lua script on the server.

The ledger is the truth. A Celery message only says that a job may be waiting; whoever holds the newest fence may
write; the server's TIME is the only clock. Methods raise LedgerUnavailable when Redis does not answer, and every one
of them may be called again after that without harm.

It does not ring bells: the callers own Celery. It is synchronous and safe to share between threads.
"""

import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import redis
from pydantic import ValidationError

from woolly_worker.contract.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobNotFound,
    LedgerUnavailable,
    PoisonJob,
    QueueFull,
    WoollyError,
)
from woolly_worker.contract.events import DoneEvent, FailedEvent, TokenEvent
from woolly_worker.contract.jobs import MAX_SEED, ErrorInfo, JobMetrics, JobRequest, JobResult, JobView, Usage
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.ledger import keys, timings, views
from woolly_worker.ledger.connection import load_scripts, translated_errors
from woolly_worker.ledger.damage import FIELDS, Damage, problem_of
from woolly_worker.ledger.foreign import foreign, printable, set_aside
from woolly_worker.ledger.records import (
    Bell,
    BrokenJob,
    Claim,
    ClaimOutcome,
    Emission,
    Finish,
    Finished,
    LaneCounts,
    Reaped,
    Refusal,
    Released,
    Reply,
    Submitted,
)
from woolly_worker.ledger.versions import RECORD_VERSION

T = TypeVar("T")

DEFAULT_RETENTION_SECONDS = 3600.0
DEFAULT_BELL_SECONDS = 5.0
DEFAULT_MAX_CRASHES = 3
REAP_BATCH = 100
NO_EXPIRY = -1  # what PTTL says
BROKEN_MS = 60_000  # until the reaper looks again at a job that it could not look at
NEWEST_BELLS = 100  # to look through for the one that was just rung
_JOB_ID = re.compile(keys.JOB_ID_PATTERN)
# What a call ends with when its record is damaged: a script stops, or Python cannot read what it says.
_SIGNS_OF_DAMAGE = (InternalError, ValueError, TypeError)

# How a job that nobody owns ends, by the verdict of claim.lua and look.lua.
_CLOSING_STATES: dict[str, Literal[JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]] = {
    "cancelled": JobState.CANCELLED,
    "expired": JobState.EXPIRED,
    "poison": JobState.FAILED,
}


class Ledger:
    def __init__(
        self,
        client: redis.Redis,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        bell_seconds: float = DEFAULT_BELL_SECONDS,
        max_crashes: int = DEFAULT_MAX_CRASHES,
    ) -> None:
        """`bell_seconds`: how long a job may stay queued before the reaper looks whether its bell was lost."""
        self.client = client
        self._scripts = load_scripts(client)
        self._retention_ms = max(1, int(retention_seconds * 1000))
        self._bell_ms = max(1, int(bell_seconds * 1000))
        self._max_crashes = max_crashes
        self._damage = Damage(client, self._scripts["condemn"], self._retention_ms)

    def submit(self, request: JobRequest, *, job_id: str | None = None, max_queued: int | None = None) -> Submitted:
        """Records the job as queued. Afterwards the caller rings `bell`, off the request's path; if that fails, the
        reaper rings it. QueueFull when `max_queued` jobs of this model already wait."""
        job_id = job_id or uuid.uuid4().hex
        if not is_job_id(job_id):
            raise InvalidRequest(f"a job's id matches {keys.JOB_ID_PATTERN}, {printable(job_id)!r} does not")
        if request.sampling.seed is None:
            # Drawn here and stored, so that a resumed job continues as it would have without the interruption.
            sampling = request.sampling.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})
            request = request.model_copy(update={"sampling": sampling})
        lane = keys.lane_of(request.tenant)
        deadline_ms = "" if request.deadline_seconds is None else max(1, int(request.deadline_seconds * 1000))
        status, number = self._call(
            "submit",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(request.model)],
            [
                job_id,
                request.model,
                lane,
                request.priority,
                request.tenant,
                views.dump_metadata(request.metadata),
                request.model_dump_json(exclude_none=True),
                deadline_ms,
                self._bell_ms,
                "" if max_queued is None else max_queued,
            ],
        )
        if status == "full":
            raise QueueFull(
                f"{number} jobs of model '{request.model}' are queued, the limit is {max_queued}",
                details={"queued": number, "limit": max_queued},
            )
        if status == "exists":
            return Submitted(job_id, None)
        return Submitted(job_id, Bell(job_id, request.model, lane, request.priority, number))

    def claim(self, job_id: str, owner: str, *, lease_seconds: float, claim_id: str | None = None) -> Claim | Refusal:
        """Takes the job for `owner` (a worker id). Call it again with the same `claim_id` if the reply was lost.
        A job that turns out to be cancelled, expired, poison, unreadable or damaged is closed here; one whose request
        is newer than this program is left alone (see versions.py)."""
        return self._or_end(
            job_id,
            lambda: self._claim(job_id, owner, lease_seconds, claim_id or uuid.uuid4().hex),
            cast(Claim | Refusal, Refusal(job_id, ClaimOutcome.DAMAGED)),
        )

    def _claim(self, job_id: str, owner: str, lease_seconds: float, claim_id: str) -> Claim | Refusal:
        if not is_job_id(job_id):
            return Refusal(job_id, ClaimOutcome.GONE)
        record = self._checked(job_id)
        if record is None:
            return Refusal(job_id, ClaimOutcome.GONE)
        if record["state"] in TERMINAL_STATES:
            return Refusal(job_id, ClaimOutcome.TERMINAL)
        model = record["model"]
        if int(record.get("version", "1")) > RECORD_VERSION and record["state"] == JobState.QUEUED:
            return Refusal(job_id, ClaimOutcome.NEWER)
        outcome, fence, seq, attempt, crashes, now_ms = self._call(
            "claim",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)],
            [job_id, owner, claim_id, int(lease_seconds * 1000), self._max_crashes],
        )
        if outcome in _CLOSING_STATES:
            self._close(job_id, fence, outcome)
        if outcome != ClaimOutcome.CLAIMED:
            return Refusal(job_id, ClaimOutcome(outcome))
        names = ["request", "created_ms", "queued_ms", "claimed_ms", "first_token_ms", "deadline_ms"]
        request, created_ms, queued_ms, claimed_ms, first_token_ms, deadline_ms = self._fields(job_id, names)
        if request is None or created_ms is None or queued_ms is None or claimed_ms is None:
            raise InternalError("the record lacks a field that the claim needs")
        tokens = self._tokens(job_id, seq)
        try:
            wanted = JobRequest.model_validate_json(request)
        except ValidationError:
            self._end_unreadable(job_id, fence, model, tokens)
            return Refusal(job_id, ClaimOutcome.UNREADABLE)
        return Claim(
            job_id=job_id,
            fence=fence,
            request=wanted,
            attempt=attempt,
            crashes=crashes,
            token_ids=tuple(token.token_id for token in tokens),
            text="".join(token.text for token in tokens),
            created_at=int(created_ms) / 1000,
            queued_at=int(queued_ms) / 1000,
            claimed_at=int(claimed_ms) / 1000,
            first_token_at=None if first_token_ms is None else int(first_token_ms) / 1000,
            deadline_remaining_seconds=_remaining_seconds(deadline_ms, now_ms),
        )

    def emit(self, emissions: Sequence[Emission], *, lease_seconds: float) -> list[Reply]:
        """One call for a whole engine step. Renews every job's lease; see Reply for what each answer means."""
        if not emissions:
            return []
        names = [keys.OPEN_JOBS]
        args: list[str | int] = [int(lease_seconds * 1000)]
        for emission in emissions:
            names += (keys.job(emission.job_id), keys.events(emission.job_id))
            event = "" if emission.event is None else emission.event.model_dump_json(exclude_none=True)
            args += (emission.job_id, emission.fence, emission.seq, event)
        return [Reply(reply) for reply in self._call("emit", names, args)]

    def finish(self, finish: Finish) -> Finished:
        """The terminal event, by the owner. The ledger adds its share of the metrics. A damaged job is ended here, and
        the reply says that it is not the caller's any more."""
        return self._or_end(finish.job_id, lambda: self._finish(finish), Finished(Reply.FENCED, JobResult()))

    def _finish(self, finish: Finish) -> Finished:
        result_metrics = self._merged_metrics(finish.job_id, finish.event.metrics)
        event = timings.with_metrics(finish.event, result_metrics)
        result = JobResult(
            text=finish.text,
            token_ids=finish.token_ids,
            finish_reason=event.finish_reason if isinstance(event, DoneEvent) else None,
            usage=event.usage,
            metrics=event.metrics,
            error=event.error if isinstance(event, FailedEvent) else None,
        )
        reply = self._write_terminal("finish", finish.job_id, finish.fence, finish.model, event, result)
        return Finished(reply, result)

    def release(self, job_id: str, fence: int, model: str) -> Released:
        """Gives a running job back. Its tokens stay; the next owner goes on behind them."""
        return self._or_end(job_id, lambda: self._release(job_id, fence, model), Released(Reply.FENCED))

    def _release(self, job_id: str, fence: int, model: str) -> Released:
        args: list[str | int] = [job_id, fence, self._bell_ms]
        reply, *bell = self._call("release", [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)], args)
        if not bell:
            return Released(Reply(reply))
        lane, priority, number = bell
        return Released(Reply(reply), Bell(job_id, model, lane, priority, number, front=True))

    def to_front(self, bell: Bell) -> bool:
        """Lets a bell that was just rung be the next one of its lane. False if it is not in the lane (any more)."""
        names = [keys.bells(bell.model, bell.lane, bell.priority), keys.job(bell.job_id), keys.lanes(bell.model)]
        return bool(self._call("to_front", names, [bell.task_id, NEWEST_BELLS, bell.lane, bell.priority]))

    def cancel(self, job_id: str) -> JobState:
        """Asks for the end of a job. Returns the state it is in now: cancelled if it was waiting, running if its
        worker will see the flag at its next step, or the terminal state it had reached before."""
        return self._or_end(job_id, lambda: self._cancel(job_id), JobState.FAILED)

    def end_damaged(self, job_id: str) -> str | None:
        """Ends a job that a call failed for, if its record or stream is damaged. Says what is wrong with it."""
        return self._damage.end(job_id)

    def _cancel(self, job_id: str) -> JobState:
        self._checked(job_id)
        for _ in range(3):
            state, fence = self._call("cancel", [keys.job(job_id), keys.OPEN_JOBS], [job_id])
            if state == "gone":
                raise JobNotFound(f"no job '{job_id}'")
            if state != JobState.QUEUED or self._close(job_id, fence, "cancelled"):
                return JobState.CANCELLED if state == JobState.QUEUED else JobState(state)
        # Lost against three claims or releases in a row. The flag stands, so the next claim or step ends it.
        return JobState.QUEUED

    def reap(self, *, limit: int = REAP_BATCH) -> Reaped:
        """Looks at the jobs that are due. Closes what must not run any more and returns the bells to ring. A job that
        cannot be looked at is named, and ended if its record is damaged, else put off; the others do not wait for
        it."""
        set_aside(self.client, self._models())
        now_ms = self._now_ms()
        with translated_errors():
            due = self.client.zrange(keys.OPEN_JOBS, "-inf", str(now_ms), byscore=True, offset=0, num=limit)
        rung: list[Bell] = []
        closed: list[str] = []
        broken: list[BrokenJob] = []
        for job_id in map(str, due):
            try:
                found = self._look(job_id)
            except LedgerUnavailable:
                raise
            except Exception as error:
                broken.append(self._broken(job_id, error, now_ms))
                continue
            if isinstance(found, Bell):
                rung.append(found)
            elif found:
                closed.append(job_id)
        return Reaped(tuple(rung), tuple(closed), tuple(broken))

    def reaper_turn(self, owner: str, *, seconds: float) -> bool:
        """Whether `owner` may reap now. One reaper at a time, over all processes."""
        with translated_errors():
            taken = bool(self.client.set(keys.REAPER_MUTEX, owner, nx=True, px=max(1, int(seconds * 1000))))
            if not taken and self.client.pttl(keys.REAPER_MUTEX) == NO_EXPIRY:
                # No reaper of ours leaves it so, and nobody would ever reap again.
                foreign.tell("key", keys.REAPER_MUTEX, "it has no time to live: removed")
                self.client.delete(keys.REAPER_MUTEX)
        return taken

    def view(self, job_id: str) -> JobView:
        return views.view_of(job_id, self._fields(job_id, views.VIEW_FIELDS))

    def lane_counts(self, model: str) -> LaneCounts:
        with translated_errors():
            fields = self.client.hgetall(keys.lanes(model))
        return views.lane_counts_of(cast(dict[str, str], fields))

    # -- below: what several transitions share --

    def _or_end(self, job_id: str, call: Callable[[], T], otherwise: T) -> T:
        """What `call` answers; or `otherwise`, when it failed because the job is damaged, which has ended then."""
        try:
            return call()
        except _SIGNS_OF_DAMAGE:
            if self._damage.end(job_id) is None:
                raise
            return otherwise

    def _broken(self, job_id: str, error: Exception, now_ms: int) -> BrokenJob:
        problem = self._damage.end(job_id)
        if problem is not None:
            return BrokenJob(job_id, problem)
        with translated_errors():
            self.client.zadd(keys.OPEN_JOBS, {job_id: now_ms + BROKEN_MS}, xx=True)
        said = f": {error.message}" if isinstance(error, WoollyError) else ""
        return BrokenJob(job_id, type(error).__name__ + said)

    def _checked(self, job_id: str) -> dict[str, str] | None:
        """The fields of a record, without the request; None if there is none. Raises InternalError for what is wrong
        with it, unless the job has ended."""
        fields = self._fields(job_id, FIELDS)
        record = dict(zip(FIELDS, fields, strict=True))
        if record["state"] not in TERMINAL_STATES:
            if not any(fields):
                with translated_errors():
                    if not self.client.exists(keys.job(job_id)):
                        return None
            problem = problem_of(job_id, record)
            if problem is not None:
                raise InternalError(f"the record is damaged: {problem}")
        return {name: value for name, value in record.items() if value is not None}

    def _models(self) -> list[str]:
        with translated_errors():
            return cast(list[str], self.client.hkeys(keys.MODELS)) if self.client.type(keys.MODELS) == "hash" else []

    def _look(self, job_id: str) -> Bell | bool:
        """The bell to ring for an open job that is due, or whether it was closed."""
        if not is_job_id(job_id):
            with translated_errors():
                self.client.zrem(keys.OPEN_JOBS, job_id)
            foreign.tell("open job", job_id, "it is no id of a job: removed from the index")
            return False
        record = self._checked(job_id)
        if record is None or record["state"] in TERMINAL_STATES:
            with translated_errors():
                self.client.zrem(keys.OPEN_JOBS, job_id)
            return False
        model, lane, priority = record["model"], record["lane"], record["priority"]
        bells = keys.bells(model, int(lane), int(priority))
        verdict, fence, number = self._call(
            "look",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model), bells],
            [job_id, self._bell_ms, self._max_crashes],
        )
        if verdict in ("ring", "resume"):
            return Bell(job_id, model, int(lane), int(priority), number, front=verdict == "resume")
        return verdict in _CLOSING_STATES and self._close(job_id, fence, verdict)

    def _close(self, job_id: str, fence: int, verdict: str) -> bool:
        """Ends a queued job that nobody owns. False if it has been claimed or closed since `fence` was read. The result
        has the tokens that are there: a job whose stream was lost must end, too."""
        model, seq, history = self._fields(job_id, ["model", "seq", "history"])
        if model is None or seq is None:
            return False
        tokens = self._stored_tokens(job_id, int(seq))
        event = FailedEvent(
            seq=int(seq) + 1,
            state=_CLOSING_STATES[verdict],
            error=ErrorInfo.of(_closing_error(verdict, history)),
            usage=Usage(completion_tokens=len(tokens), total_tokens=len(tokens)),
            metrics=self._merged_metrics(job_id, JobMetrics()),
        )
        result = JobResult(
            text="".join(token.text for token in tokens),
            token_ids=tuple(token.token_id for token in tokens),
            usage=event.usage,
            metrics=event.metrics,
            error=event.error,
        )
        return self._write_terminal("close", job_id, fence, model, event, result) is Reply.OK

    def _end_unreadable(self, job_id: str, fence: int, model: str, tokens: list[TokenEvent]) -> None:
        """Fails a job that was just claimed: no other worker of this version could read its request either."""
        error = InternalError("the recorded request is not one that this version of Woolly can read")
        event = FailedEvent(
            seq=len(tokens) + 1,
            state=JobState.FAILED,
            error=ErrorInfo.of(error),
            usage=Usage(completion_tokens=len(tokens), total_tokens=len(tokens)),
        )
        ids, text = tuple(token.token_id for token in tokens), "".join(token.text for token in tokens)
        self.finish(Finish(job_id, fence, model, event, ids, text))

    def _write_terminal(
        self, script: str, job_id: str, fence: int, model: str, event: DoneEvent | FailedEvent, result: JobResult
    ) -> Reply:
        names = [
            keys.job(job_id),
            keys.events(job_id),
            keys.OPEN_JOBS,
            keys.FINISHED_JOBS,
            keys.lanes(model),
        ]
        args: list[str | int] = [
            job_id,
            fence,
            event.state.value,
            event.seq,
            event.model_dump_json(exclude_none=True),
            result.model_dump_json(exclude_none=True),
            self._retention_ms,
        ]
        return Reply(self._call(script, names, args))

    def _tokens(self, job_id: str, last_seq: int) -> list[TokenEvent]:
        """The job's tokens so far. The caller knows that nobody writes now."""
        found = self._stored_tokens(job_id, last_seq)
        if len(found) != last_seq:
            raise InternalError(f"the record says {last_seq} tokens, the stream holds {len(found)}")
        return found

    def _stored_tokens(self, job_id: str, last_seq: int) -> list[TokenEvent]:
        """What the stream holds of them. Whoever does not know that nobody writes now checks it by the fence."""
        if last_seq == 0:
            return []
        with translated_errors():
            entries: Any = self.client.xrange(keys.events(job_id), "1-0", f"{last_seq}-0")
        events = [views.event_of(entry_id, fields) for entry_id, fields in entries]
        return [event for event in events if isinstance(event, TokenEvent)]

    def _merged_metrics(self, job_id: str, metrics: JobMetrics) -> JobMetrics:
        with translated_errors():
            pipe = self.client.pipeline(transaction=False)
            pipe.time()
            pipe.hmget(keys.job(job_id), list(timings.TIMING_FIELDS))
            (seconds, micros), fields = pipe.execute()
        return timings.merged(metrics, fields, seconds * 1000 + micros // 1000)

    def _now_ms(self) -> int:
        with translated_errors():
            seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _fields(self, job_id: str, names: list[str]) -> list[str | None]:
        with translated_errors():
            return cast(list[str | None], self.client.hmget(keys.job(job_id), names))

    def _call(self, script: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
        with translated_errors():
            return self._scripts[script](keys=names, args=args)


def is_job_id(text: str) -> bool:
    return len(text) <= keys.MAX_JOB_ID_CHARACTERS and _JOB_ID.fullmatch(text) is not None


def _remaining_seconds(deadline_ms: str | None, now_ms: int) -> float | None:
    if deadline_ms is None or deadline_ms == "0":
        return None
    return max(0.0, (int(deadline_ms) - now_ms) / 1000)


def _closing_error(verdict: str, history: str | None) -> WoollyError:
    if verdict == "cancelled":
        return JobCancelled("the job was cancelled")
    if verdict == "expired":
        return DeadlineExceeded("the deadline passed before the job was done")
    losses = views.load_history(history)
    return PoisonJob(
        f"the job was running each time when {len(losses)} workers in a row were lost",
        details={"lost_leases": losses},
    )
