"""The writer thread: what the engine reports becomes the ledger's record, one script call per engine step.

It has its own Redis client with a short timeout, and a bounded queue in front. While Redis is away the same step is
tried again, in order; the queue fills, `put` blocks, and with it the engine: no more is generated than can be written.
A job that the ledger says is somebody else's is dropped in the engine at once, without a word.

It never decides how a job goes on: the engine and the ledger do.
"""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobResult
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import (
    EngineEvent,
    PrefillProgress,
    ProbationPassed,
    SequenceDone,
    SequenceFailed,
    SequenceReleased,
    TokenOut,
)
from woolly_worker.engine.timeline import SequenceTimes
from woolly_worker.ledger.clocks import Measured
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Bell, Claim, Emission, Finish, Reply
from woolly_worker.queue.metrics import job_metrics
from woolly_worker.queue.retry import GivenUp, until_answered
from woolly_worker.telemetry import log, log_bug

QUEUED_STEPS = 16
STEPS_PER_CALL = 8  # steps that waited are written together
# A job that waits for a slot makes no events. Steps of others prove that the engine lives, so they renew its lease too;
# the call also reads its cancel flag.
RENEW_SILENT_SECONDS = 0.5


# A worker may claim a job again before it has noticed that it lost it: one job, two claims, two sequences.
ClaimKey = tuple[str, int]  # job id, fence


class OutcomeKind(StrEnum):
    FINISHED = "finished"  # the terminal event is written
    RELEASED = "released"  # back in the queue: its bell is to be rung
    FENCED = "fenced"  # somebody else's by now: the message is a leftover
    ABANDONED = "abandoned"  # nothing could be written: the lease decides


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: OutcomeKind
    state: JobState | None = None
    result: JobResult | None = None
    bell: Bell | None = None  # to be rung for a released job


class SequenceControl(Protocol):
    """Whoever runs the sequences, as far as the writer needs it."""

    def cancel(self, job_id: str, fence: int) -> None: ...
    def drop(self, job_id: str, fence: int) -> None: ...
    def passed(self, job_id: str, fence: int) -> None: ...


@dataclass(slots=True)
class _Tracked:
    """A claim of a job, until its outcome. Only the writer thread changes it, but for a late count of the prompt."""

    claim: Claim
    outcome: "Future[Outcome]"
    token_ids: list[int]
    texts: list[str]
    n_prompt: int | None  # tokens of the prompt, from when they are counted until the ledger knows them
    renewed_at: float = field(default_factory=time.monotonic)
    cancel_told: bool = False

    @property
    def key(self) -> ClaimKey:
        return self.claim.job_id, self.claim.fence

    def measured(self, times: SequenceTimes) -> Measured:
        """What the engine knows of this attempt, for the ledger."""
        return Measured(self.claim.clock.ms_at(times.began_at), times.ended_at, times.parts)


class Publisher:
    def __init__(self, ledger: Ledger, *, lease_seconds: float, queued_steps: int = QUEUED_STEPS) -> None:
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._steps: queue.Queue[Sequence[EngineEvent] | None] = queue.Queue(maxsize=queued_steps)
        self._tracked: dict[ClaimKey, _Tracked] = {}
        self._given_control: SequenceControl | None = None
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self, control: SequenceControl) -> None:
        self._given_control = control
        self._thread.start()

    def track(self, claim: Claim, n_prompt: int | None = None) -> "Future[Outcome]":
        """Call it before the engine gets the job. The future ends with the job, or with our part in it. `n_prompt`:
        tokens of the prompt, if they are counted already; the next write tells the ledger, which needs it if we die."""
        outcome: Future[Outcome] = Future()
        tracked = _Tracked(claim, outcome, list(claim.token_ids), [claim.text], n_prompt)
        self._tracked[tracked.key] = tracked
        if self._give_up.is_set():  # looked at after the entry is made: give_up() sees one of the two
            self._resolve(tracked, Outcome(OutcomeKind.ABANDONED))
        return outcome

    def count_prompt(self, claim: Claim, n_prompt: int) -> None:
        """Of a claim that was tracked before that was known: once, and before the engine gets the job."""
        tracked = self._tracked.get((claim.job_id, claim.fence))
        if tracked is not None:
            tracked.n_prompt = n_prompt

    def untrack(self, claim: Claim) -> None:
        """The engine refused the job."""
        self._tracked.pop((claim.job_id, claim.fence), None)

    def put(self, events: Sequence[EngineEvent]) -> None:
        """The engine's callable, once per step. Blocks while the queue is full."""
        while not self._give_up.is_set():
            try:
                self._steps.put(tuple(events), timeout=0.2)
                return
            except queue.Full:
                continue

    def stop(self, timeout_seconds: float) -> None:
        """Writes what is queued, for so long; then gives up and lets the leases decide."""
        try:
            self._steps.put(None, timeout=timeout_seconds)
            self._thread.join(timeout_seconds)
        except queue.Full:
            pass
        self.give_up()
        self._thread.join(2.0)

    def give_up(self) -> None:
        """No more waiting for Redis. Whoever waits for a job is told that it was abandoned."""
        self._give_up.set()
        for tracked in list(self._tracked.values()):
            self._resolve(tracked, Outcome(OutcomeKind.ABANDONED))

    # -- the writer thread --

    def _run(self) -> None:
        while True:
            step = self._steps.get()
            if step is None:
                return
            events = list(step)
            last = False
            for _ in range(STEPS_PER_CALL - 1):
                try:
                    more = self._steps.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                events += more
            try:
                self._write(events)
            except GivenUp:
                log.warning("gave up writing to redis", jobs=len({event.job_id for event in events}))
                return
            except Exception as error:  # ours, or a script's: these jobs are lost to us, the others are not
                log_bug("a step could not be written", error)
                for key in {(event.job_id, event.fence) for event in events}:
                    self._lose(self._tracked.get(key), OutcomeKind.ABANDONED)
            if last:
                return

    def _write(self, events: Sequence[EngineEvent]) -> None:
        emissions: list[Emission] = []
        passed: list[_Tracked] = []
        endings: list[tuple[_Tracked, SequenceDone | SequenceFailed | SequenceReleased]] = []
        for event in events:
            tracked = self._tracked.get((event.job_id, event.fence))
            if tracked is None:
                continue  # dropped before; what it still says is of no interest
            if isinstance(event, TokenOut):
                emissions.append(self._token(tracked, event))
            elif isinstance(event, PrefillProgress):
                news = StateEvent(
                    state=JobState.RUNNING,
                    attempt=tracked.claim.attempt,
                    prefill_done=event.n_done,
                    prefill_total=event.n_total,
                )
                emissions.append(Emission(event.job_id, event.fence, news, tracked.n_prompt))
            elif isinstance(event, ProbationPassed):
                passed.append(tracked)
            else:
                endings.append((tracked, event))
        self._emit([*emissions, *self._silent({(emission.job_id, emission.fence) for emission in emissions})])
        for tracked in passed:
            self._pass(tracked)
        for tracked, ending in endings:
            if tracked.key not in self._tracked:
                continue  # fenced just now
            if isinstance(ending, SequenceReleased):
                self._release(tracked, ending.times)
            else:
                self._finish(tracked, ending)

    def _token(self, tracked: _Tracked, event: TokenOut) -> Emission:
        tracked.token_ids.append(event.token_id)
        tracked.texts.append(event.text)
        token = TokenEvent(
            seq=event.seq,
            token_id=event.token_id,
            text=event.text,
            logprob=event.logprob,
            top_logprobs=event.top_logprobs,
        )
        return Emission(event.job_id, event.fence, token, tracked.n_prompt)

    def _silent(self, heard: set[ClaimKey]) -> list[Emission]:
        now = time.monotonic()
        due = now - min(RENEW_SILENT_SECONDS, self._lease_seconds / 3)
        return [
            Emission(*key, n_prompt=tracked.n_prompt)
            for key, tracked in list(self._tracked.items())
            if key not in heard and tracked.renewed_at < due
        ]

    def _emit(self, emissions: list[Emission]) -> None:
        if not emissions:
            return
        replies = until_answered(
            "emit", lambda: self._ledger.emit(emissions, lease_seconds=self._lease_seconds), self._give_up
        )
        now = time.monotonic()
        for emission, reply in zip(emissions, replies, strict=True):
            tracked = self._tracked.get((emission.job_id, emission.fence))
            if tracked is None:
                continue  # an earlier reply of this batch ended it
            tracked.renewed_at = now
            if emission.n_prompt is not None:
                tracked.n_prompt = None
            if reply is Reply.CANCELLED and not tracked.cancel_told:
                tracked.cancel_told = True
                self._control.cancel(emission.job_id, emission.fence)
            elif reply is Reply.FENCED:
                log.warning("fenced out", job_id=emission.job_id, fence=emission.fence)
                self._lose(tracked, OutcomeKind.FENCED)
            elif reply is Reply.DAMAGED:
                self._end_damaged(tracked)
            elif reply is Reply.GAP:
                # The server lost what it had acknowledged. Another attempt goes on from what it has.
                log.warning("the stream lost tokens, giving the job back", job_id=emission.job_id)
                self._control.drop(emission.job_id, emission.fence)
                self._release(tracked)

    def _end_damaged(self, tracked: _Tracked) -> None:
        job_id = tracked.claim.job_id
        problem = until_answered("end damaged", lambda: self._ledger.end_damaged(job_id), self._give_up)
        log.error("job damaged", job_id=job_id, problem=problem)
        self._lose(tracked, OutcomeKind.ABANDONED)

    def _pass(self, tracked: _Tracked) -> None:
        """Others are computed again only when the record says so: their crash would convict this job."""
        claim = tracked.claim
        if tracked.key not in self._tracked:
            return  # fenced just now
        reply = until_answered(
            "company",
            lambda: self._ledger.end_probation(claim.job_id, claim.fence, lease_seconds=self._lease_seconds),
            self._give_up,
        )
        if reply is Reply.FENCED:
            self._lose(tracked, OutcomeKind.FENCED)
        self._control.passed(claim.job_id, claim.fence)

    def _finish(self, tracked: _Tracked, ending: SequenceDone | SequenceFailed) -> None:
        claim = tracked.claim
        metrics = job_metrics(ending.metrics)
        event: DoneEvent | FailedEvent
        if isinstance(ending, SequenceDone):
            tracked.texts.append(ending.text)
            event = DoneEvent(
                seq=ending.seq,
                finish_reason=ending.finish_reason,
                text=ending.text,
                usage=ending.usage,
                metrics=metrics,
            )
        else:
            event = FailedEvent.model_validate(
                {
                    "seq": ending.seq,
                    "state": ending.state,
                    "error": ending.error,
                    "usage": ending.usage,
                    "metrics": metrics,
                }
            )
        finish = Finish(
            claim.job_id,
            claim.fence,
            claim.request.model,
            event,
            tuple(tracked.token_ids),
            "".join(tracked.texts),
            tracked.measured(ending.times),
        )
        finished = until_answered("finish", lambda: self._ledger.finish(finish), self._give_up)
        if finished.reply is Reply.OK:
            self._resolve(tracked, Outcome(OutcomeKind.FINISHED, event.state, finished.result))
        elif finished.reply is Reply.GAP:
            self._release(tracked, ending.times)
        else:
            self._resolve(tracked, Outcome(OutcomeKind.FENCED))

    def _release(self, tracked: _Tracked, times: SequenceTimes | None = None) -> None:
        """`times`: of the sequence, if it has ended in the engine by itself."""
        claim = tracked.claim
        measured = None if times is None else tracked.measured(times)
        released = until_answered(
            "release",
            lambda: self._ledger.release(claim.job_id, claim.fence, claim.request.model, measured),
            self._give_up,
        )
        kind = OutcomeKind.RELEASED if released.reply is Reply.OK else OutcomeKind.FENCED
        self._resolve(tracked, Outcome(kind, bell=released.bell))

    def _lose(self, tracked: _Tracked | None, kind: OutcomeKind) -> None:
        if tracked is not None:
            self._control.drop(tracked.claim.job_id, tracked.claim.fence)
            self._resolve(tracked, Outcome(kind))

    def _resolve(self, tracked: _Tracked, outcome: Outcome) -> None:
        self._tracked.pop(tracked.key, None)
        if not tracked.outcome.done():
            tracked.outcome.set_result(outcome)

    @property
    def _control(self) -> SequenceControl:
        assert self._given_control is not None, "start() gives it"
        return self._given_control
