"""Outbox: the events of a step, and every way in which a sequence can end.

An ending frees seat and blocks at once and is counted once; ending a sequence twice does nothing. Events leave
together at the end of the step. Nothing is computed here.
"""

import logging
import time
import traceback
from collections.abc import Callable, Mapping

from woolly_worker.contract.errors import InternalError, WoollyError
from woolly_worker.contract.jobs import FinishReason, TokenLogprob
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import (
    EngineEvent,
    PrefillProgress,
    ProbationPassed,
    SequenceDone,
    SequenceFailed,
    SequenceReleased,
    TokenOut,
    error_info,
)
from woolly_worker.engine.metrics import EngineMeter
from woolly_worker.engine.scheduler import Scheduler
from woolly_worker.engine.sequence import Sequence, SequenceStatus

log = logging.getLogger(__name__)

_ENDING = {JobState.FAILED: "failed", JobState.CANCELLED: "cancelled", JobState.EXPIRED: "expired"}
_LAST_EVENTS = (SequenceDone, SequenceFailed, SequenceReleased)

SequenceKey = tuple[str, int]


def log_bug(what: str, error: BaseException) -> None:
    """Type and place of an exception that should not have happened. Its message stays out: it may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    message = f": {error.message}" if isinstance(error, WoollyError) else ""  # ours never quote one
    log.error("%s: %s%s at %s", what, type(error).__name__, message, where)


class Outbox:
    """`live` are the sequences that somebody waits for, by key; `ended` those of them that have ended in this step."""

    def __init__(
        self,
        scheduler: Scheduler,
        meter: EngineMeter,
        live: Mapping[SequenceKey, Sequence],
        on_events: Callable[[list[EngineEvent]], None],
    ) -> None:
        self.ended: list[Sequence] = []
        self._scheduler = scheduler
        self._meter = meter
        self._live = live
        self._on_events = on_events
        self._events: list[EngineEvent] = []
        self._offered_again: set[SequenceKey] = set()

    @property
    def is_empty(self) -> bool:
        return not self._events and not self.ended

    def token(
        self,
        sequence: Sequence,
        token_id: int,
        text: str,
        logprob: float | None,
        top: tuple[TokenLogprob, ...] | None,
    ) -> None:
        job_id, fence = sequence.key
        self._events.append(TokenOut(job_id, fence, sequence.n_generated, token_id, text, logprob, top))
        self._meter.n_decode_tokens += 1

    def progress(self, sequence: Sequence) -> None:
        self._events.append(PrefillProgress(*sequence.key, sequence.n_computed, len(sequence.ids)))

    def passed(self, sequence: Sequence) -> None:
        self._events.append(ProbationPassed(*sequence.key))

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """It ended well; what the detokenizer holds back is let go."""
        if not self._end(sequence, "done"):
            return
        text = sequence.detokenizer.flush()
        if sequence.detokenizer.stopped:  # the end of an incomplete character may complete a stop string
            reason = "stop"
        job_id, fence = sequence.key
        self._events.append(
            SequenceDone(
                job_id=job_id,
                fence=fence,
                seq=sequence.n_generated + 1,
                finish_reason=reason,
                text=text,
                usage=sequence.usage(),
                metrics=sequence.meter.metrics(),
                times=sequence.meter.timeline.times(time.monotonic()),
            )
        )

    def fail(self, sequence: Sequence, error: Exception, state: JobState = JobState.FAILED) -> None:
        if not self._end(sequence, _ENDING[state]):
            return
        job_id, fence = sequence.key
        ours = error if isinstance(error, WoollyError) else InternalError("the engine failed; its log says where")
        self._events.append(
            SequenceFailed(
                job_id=job_id,
                fence=fence,
                seq=sequence.n_generated + 1,
                error=error_info(ours),
                state=state,
                usage=sequence.usage(),
                metrics=sequence.meter.metrics(),
                times=sequence.meter.timeline.times(time.monotonic()),
            )
        )

    def release(self, sequence: Sequence) -> None:
        if self._end(sequence, "released"):
            self._events.append(SequenceReleased(*sequence.key, sequence.meter.timeline.times(time.monotonic())))

    def drop(self, sequence: Sequence) -> None:
        """No further event, not even one of this step."""
        if self._end(sequence, "dropped"):
            self._events = [event for event in self._events if (event.job_id, event.fence) != sequence.key]

    def deliver(self) -> list[Sequence]:
        """Hand over the step's events. Returns the sequences that are over and done with, their events delivered."""
        if self._events:
            events, self._events = self._events, []
            try:
                self._on_events(events)
            except Exception as error:
                log_bug(f"{len(events)} events were not taken", error)
                self._meter.n_emit_errors += 1
                self._make_up_for(events)
            else:
                self._offered_again.clear()
        if self._events:
            return []
        ended, self.ended = self.ended, []
        return ended

    def _make_up_for(self, lost: list[EngineEvent]) -> None:
        """A stream with a hole must not go on: those sequences fail. Endings are offered once more, then given up."""
        for event in lost:
            key = (event.job_id, event.fence)
            sequence = self._live.get(key)
            if sequence is not None and sequence.status is not SequenceStatus.ENDED:
                self.fail(sequence, InternalError("an event of this job could not be handed over"))
            elif isinstance(event, _LAST_EVENTS):
                if key in self._offered_again:
                    log.error("the ending of job %s was not taken twice and is lost", key[0])
                else:
                    self._offered_again.add(key)
                    self._events.append(event)

    def _end(self, sequence: Sequence, how: str) -> bool:
        """Whether it ended just now."""
        if sequence.status is SequenceStatus.ENDED:
            return False
        self._scheduler.remove(sequence)
        self.ended.append(sequence)
        self._meter.endings[how] += 1
        return True
