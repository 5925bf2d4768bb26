"""The record of every job: one method per transition, each a single Lua script on the server.

The ledger is the truth. A Celery message only says that a job may be waiting; whoever holds the newest fence may
write; the server's TIME is the only clock. Methods raise LedgerUnavailable when Redis does not answer, and every one
of them may be called again after that without harm.

It does not ring bells: the callers own Celery. It is synchronous and safe to share between threads.
"""

import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, cast

import redis
from pydantic import ValidationError

from woolly_worker.contract.errors import (
    DeadlineExceeded,
    InternalError,
    JobCancelled,
    JobNotFound,
    LedgerUnavailable,
    ModelReplaced,
    PoisonJob,
    WoollyError,
)
from woolly_worker.contract.events import DoneEvent, FailedEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import ErrorInfo, JobMetrics, JobRequest, JobResult, JobView, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys, timings, views
from woolly_worker.ledger.clocks import Measured, look
from woolly_worker.ledger.connection import load_scripts, translated_errors
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.probation import alone_until
from woolly_worker.ledger.records import (
    Bell,
    BrokenJob,
    Claim,
    ClaimOutcome,
    Emission,
    Finish,
    Finished,
    LaneCounts,
    Once,
    Reaped,
    Refusal,
    Released,
    Reply,
    Submitted,
)
from woolly_worker.ledger.submission import Submission
from woolly_worker.ledger.timelines import dump

DEFAULT_RETENTION_SECONDS = 3600.0
DEFAULT_BELL_SECONDS = 5.0
DEFAULT_MAX_CRASHES = 3
REAP_BATCH = 100
UNFOLLOWED_BATCH = 1000  # a look at one takes microseconds
BROKEN_MS = 60_000  # until the reaper looks again at a job that it could not look at
WAITING_LOOK_MS = 60_000  # until it looks whether a queued job is still in its lane; lost bells are counted by model
MOST_BELLS = 1000  # rung again at a time, for a broker that has lost them all

# How a job that nobody owns ends, by the verdict of claim.lua and look.lua.
_CLOSING_STATES: dict[str, Literal[JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]] = {
    "cancelled": JobState.CANCELLED,
    "expired": JobState.EXPIRED,
    "poison": JobState.FAILED,
    "stranded": JobState.FAILED,
}


class Ledger:
    def __init__(
        self,
        client: redis.Redis,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        bell_seconds: float = DEFAULT_BELL_SECONDS,
        max_crashes: int = DEFAULT_MAX_CRASHES,
        on_closed: Callable[[str, JobState, JobResult], None] = lambda job_id, state, result: None,
    ) -> None:
        """`bell_seconds`: how long a model may have fewer bells than queued jobs before the reaper rings them again.

        `on_closed`: called once for each job that was ended here and not by the worker that ran it: cancelled or
        expired in the queue, poison, or unreadable. Of all processes one hears of it."""
        self._on_closed = on_closed
        self.client = client
        self._scripts = load_scripts(client)
        self._deaths = Deaths(client)
        self._retention_ms = max(1, int(retention_seconds * 1000))
        self._bell_ms = max(1, int(bell_seconds * 1000))
        self._max_crashes = max_crashes

    def submit(
        self,
        request: JobRequest,
        *,
        job_id: str | None = None,
        once: Once | None = None,
        follow_seconds: float | None = None,
        max_queued: int | None = None,
        max_queued_tokens: int | None = None,
    ) -> Submitted:
        """Records the job as queued. Afterwards the caller rings `bell`, off the request's path; if that fails, the
        reaper rings it. With `once` it may turn out to be an earlier job, or IdempotencyKeyReused.

        `follow_seconds`: the job runs for a client who waits, and is cancelled when nobody has followed it for between
        once and twice that time. QueueFull when `max_queued` jobs of this model wait already, or when what they and
        this one may take exceeds `max_queued_tokens`; LedgerFull when Redis is close to its maxmemory."""
        submission = Submission(
            job_id=job_id or uuid.uuid4().hex,
            request=request,
            once=once,
            follow_seconds=follow_seconds,
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
        )
        return submission.outcome(*self._call("submit", submission.keys(), submission.args(WAITING_LOOK_MS)))

    def next_job(self, model: str, *, passing: str | None = None) -> str | None:
        """The queued job that is to be claimed next, or None. `passing` could not be claimed: it leaves its lane if it
        is still the next one, and the reaper decides about it later."""
        names = [keys.lanes(model)]
        return cast(str | None, self._call("next", names, [keys.job(""), "" if passing is None else passing]))

    def claim(
        self, job_id: str, owner: str, *, lease_seconds: float, claim_id: str | None = None, recipe: str = ""
    ) -> Claim | Refusal:
        """Takes the job for `owner` (a worker id). Call it again with the same `claim_id` if the reply was lost.
        `recipe`: what the owner's tokens depend on; a job that has tokens of another recipe is not given to it.
        A job that turns out to be cancelled, expired, poison or unreadable is closed here."""
        (model,) = self._fields(job_id, ["model"])
        if model is None:
            return Refusal(job_id, ClaimOutcome.GONE)
        outcome, fence, seq, attempt, crashes, now_ms = self._call(
            "claim",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model), keys.REAPER_SEEN],
            [job_id, owner, claim_id or uuid.uuid4().hex, int(lease_seconds * 1000), self._max_crashes, recipe],
        )
        if outcome in _CLOSING_STATES:
            self._close(job_id, fence, outcome)
        if outcome != ClaimOutcome.CLAIMED:
            return Refusal(job_id, ClaimOutcome(outcome))
        names = ["request", "created_ms", "queued_ms", "claimed_ms", "first_token_ms", "deadline_ms", "history"]
        request, created_ms, queued_ms, claimed_ms, first_token_ms, deadline_ms, history = self._fields(job_id, names)
        if request is None or created_ms is None or queued_ms is None or claimed_ms is None:
            return Refusal(job_id, ClaimOutcome.GONE)
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
            clock=look(self.client),
            token_ids=tuple(token.token_id for token in tokens),
            text="".join(token.text for token in tokens),
            created_at=int(created_ms) / 1000,
            queued_at=int(queued_ms) / 1000,
            claimed_at=int(claimed_ms) / 1000,
            first_token_at=None if first_token_ms is None else int(first_token_ms) / 1000,
            deadline_remaining_seconds=_remaining_seconds(deadline_ms, now_ms),
            alone_until=alone_until(views.losses_of(history, {}), seq, max_crashes=self._max_crashes),
        )

    def strand(self, job_id: str, recipes: Collection[str]) -> bool:
        """Fails a queued job that can be continued by none of `recipes`, those of the workers that are alive. Whether
        it did."""
        fence, recipe, state = self._fields(job_id, ["fence", "recipe", "state"])
        if fence is None or state != JobState.QUEUED or recipe is None or recipe in recipes:
            return False
        return self._close(job_id, int(fence), "stranded")

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

    def set_alone(self, job_id: str, fence: int, alone: bool, *, lease_seconds: float) -> Reply:
        """The owner computes this job and nothing else, or no longer. Renews the lease. The owner waits for the answer
        before it does what it says: OK, CANCELLED or FENCED."""
        args: list[str | int] = [job_id, fence, int(alone), int(lease_seconds * 1000)]
        return Reply(self._call("alone", [keys.job(job_id), keys.OPEN_JOBS], args))

    def finish(self, finish: Finish) -> Finished:
        """The terminal event, by the owner. The ledger adds its share of the metrics."""
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
        told = self._told(finish.measured)
        reply = self._write_terminal("finish", finish.job_id, finish.fence, finish.model, event, result, told)
        return Finished(reply, result)

    def release(self, job_id: str, fence: int, model: str, measured: Measured | None = None) -> Released:
        """Gives a running job back. Its tokens stay; the next owner goes on behind them."""
        args: list[str | int] = [job_id, fence, WAITING_LOOK_MS, self._told(measured)]
        reply, *bell = self._call("release", [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)], args)
        if not bell:
            return Released(Reply(reply))
        (number,) = bell
        return Released(Reply(reply), Bell(job_id, model, number))

    def cancel(self, job_id: str) -> JobState:
        """Asks for the end of a job. Returns the state it is in now: cancelled if it was waiting, running if its
        worker will see the flag at its next step, or the terminal state it had reached before."""
        for _ in range(3):
            state, fence = self._call("cancel", [keys.job(job_id), keys.OPEN_JOBS], [job_id])
            if state == "gone":
                raise JobNotFound(f"no job '{job_id}'")
            if state != JobState.QUEUED or self._close(job_id, fence, "cancelled"):
                return JobState.CANCELLED if state == JobState.QUEUED else JobState(state)
        # Lost against three claims or releases in a row. The flag stands, so the next claim or step ends it.
        return JobState.QUEUED

    def await_answer(self, call_id: str, *, seconds: float) -> None:
        """Say that somebody waits for the answer to a benchmark, for so long by Redis's clock."""
        with translated_errors():
            self.client.set(keys.benchmark(call_id), "", px=int(seconds * 1000))

    def reap(self, *, limit: int = REAP_BATCH) -> Reaped:
        """Looks at the jobs that are due. Closes what must not run any more and returns the bells to ring. A job that
        cannot be looked at is named and put off; the others do not wait for it."""
        away_ms, n_extended = self._call("absence", [keys.REAPER_SEEN, keys.OPEN_JOBS], [keys.job("")])
        abandoned = self._call("unfollowed", [keys.FOLLOWED_JOBS, keys.OPEN_JOBS], [keys.job(""), UNFOLLOWED_BATCH])
        now_ms = self._now_ms()
        with translated_errors():
            self.client.zremrangebyscore(keys.FINISHED_JOBS, "-inf", now_ms)  # their records have expired
            due = self.client.zrange(keys.OPEN_JOBS, "-inf", str(now_ms), byscore=True, offset=0, num=limit)
        rung = self._missing_bells()
        closed: list[str] = []
        broken: list[BrokenJob] = []
        for job_id in map(str, due):
            try:
                found = self._look(job_id)
            except LedgerUnavailable:
                raise
            except Exception as error:
                with translated_errors():
                    self.client.zadd(keys.OPEN_JOBS, {job_id: now_ms + BROKEN_MS}, xx=True)
                said = f": {error.message}" if isinstance(error, WoollyError) else ""
                broken.append(BrokenJob(job_id, type(error).__name__ + said))
                continue
            if isinstance(found, Bell):
                rung.append(found)
            elif found:
                closed.append(job_id)
        return Reaped(tuple(rung), tuple(closed), tuple(broken), tuple(abandoned), away_ms / 1000, n_extended)

    def reaper_turn(self, owner: str, *, seconds: float) -> bool:
        """Whether `owner` may reap now. One reaper at a time, over all processes."""
        with translated_errors():
            return bool(self.client.set(keys.REAPER_MUTEX, owner, nx=True, px=max(1, int(seconds * 1000))))

    def view(self, job_id: str) -> JobView:
        fields = self._fields(job_id, views.VIEW_FIELDS)
        return views.view_of(job_id, fields, self._deaths.of(views.lost_workers(fields)))

    def lane_counts(self, model: str) -> LaneCounts:
        with translated_errors():
            fields = self.client.hgetall(keys.lanes(model))
        return views.lane_counts_of(cast(dict[str, str], fields))

    # -- below: what several transitions share --

    def _look(self, job_id: str) -> Bell | bool:
        """The bell to ring for an open job that is due, or whether it was closed."""
        (model,) = self._fields(job_id, ["model"])
        if model is None:
            with translated_errors():
                self.client.zrem(keys.OPEN_JOBS, job_id)
            return False
        verdict, fence, number = self._call(
            "look",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)],
            [job_id, WAITING_LOOK_MS, self._max_crashes],
        )
        if verdict == "resume":
            return Bell(job_id, model, number)
        return verdict in _CLOSING_STATES and self._close(job_id, fence, verdict)

    def _missing_bells(self) -> list[Bell]:
        """Bells for every model that has had fewer of them than queued jobs for `bell_seconds`."""
        with translated_errors():
            models: Any = self.client.hkeys(keys.MODELS)
        bells: list[Bell] = []
        for model in models:
            args: list[str | int] = [keys.job(""), self._bell_ms, MOST_BELLS]
            found = self._call("missing_bells", [keys.lanes(model), keys.bells(model)], args)
            bells += [Bell(job_id, model, number) for job_id, number in found]
        return bells

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
            error=ErrorInfo.of(self._closing_error(verdict, history)),
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
        if self._write_terminal("close", job_id, fence, model, event, result, uuid.uuid4().hex) is not Reply.OK:
            return False
        self._on_closed(job_id, event.state, result)
        return True

    def _closing_error(self, verdict: str, history: str | None) -> WoollyError:
        if verdict == "cancelled":
            return JobCancelled("the job was cancelled")
        if verdict == "expired":
            return DeadlineExceeded("the deadline passed before the job was done")
        if verdict == "stranded":
            return ModelReplaced("the model was replaced while the job ran: its tokens so far are of the one before")
        losses = views.losses_of(history, self._deaths.of(views.workers_in(history)))
        return PoisonJob(
            f"the job lost {len(losses)} workers, the limit is {self._max_crashes}; the last one computed nothing else",
            details={"history": [loss.model_dump(mode="json", exclude_none=True) for loss in losses]},
        )

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
        finished = self.finish(Finish(job_id, fence, model, event, ids, text))
        if finished.reply is Reply.OK:
            self._on_closed(job_id, event.state, finished.result)

    def _told(self, measured: Measured | None) -> str:
        """For the timeline."""
        return "" if measured is None else dump(measured, look(self.client))

    def _write_terminal(
        self,
        script: str,
        job_id: str,
        fence: int,
        model: str,
        event: DoneEvent | FailedEvent,
        result: JobResult,
        *more: str,
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
            *more,
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
        tokens = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries]
        return [token for token in tokens if isinstance(token, TokenEvent)]

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


def _remaining_seconds(deadline_ms: str | None, now_ms: int) -> float | None:
    if deadline_ms is None or deadline_ms == "0":
        return None
    return max(0.0, (int(deadline_ms) - now_ms) / 1000)
