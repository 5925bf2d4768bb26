"""How jobs end: the terminal event and the result, composed here and written by finish.lua and close.lua."""

import uuid
from collections.abc import Callable, Sequence
from typing import Literal

from woolly_worker.contract.errors import (
    DeadlineExceeded,
    InternalError,
    JobCancelled,
    ModelReplaced,
    PoisonJob,
    WoollyError,
)
from woolly_worker.contract.events import DoneEvent, FailedEvent, TokenEvent
from woolly_worker.contract.jobs import ErrorInfo, JobMetrics, JobResult, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys, timings, views
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.records import Finish, Finished, Reply
from woolly_worker.ledger.store import Store
from woolly_worker.ledger.timelines import told

# How a job that nobody owns ends, by the verdict of claim.lua and look.lua.
CLOSING_STATES: dict[str, Literal[JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]] = {
    "cancelled": JobState.CANCELLED,
    "expired": JobState.EXPIRED,
    "poison": JobState.FAILED,
    "stranded": JobState.FAILED,
}


def result_of(event: DoneEvent | FailedEvent, text: str, token_ids: tuple[int, ...]) -> JobResult:
    """`text` and `token_ids` are those of the whole completion."""
    return JobResult(
        text=text,
        token_ids=token_ids,
        finish_reason=event.finish_reason if isinstance(event, DoneEvent) else None,
        usage=event.usage,
        metrics=event.metrics,
        error=event.error if isinstance(event, FailedEvent) else None,
    )


def failure(
    tokens: Sequence[TokenEvent],
    error: WoollyError,
    *,
    state: Literal[JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED] = JobState.FAILED,
    seq: int | None = None,
    n_prompt: int = 0,
    metrics: JobMetrics | None = None,
) -> tuple[FailedEvent, JobResult]:
    """The last event and the result of a job that ends with what can be read of its stream. `seq`: of the event, where
    the record counts more tokens than that. `n_prompt`: tokens, 0 if nobody has counted them."""
    event = FailedEvent(
        seq=len(tokens) + 1 if seq is None else seq,
        state=state,
        error=ErrorInfo.of(error),
        usage=Usage.of(n_prompt, len(tokens)),
        metrics=metrics or JobMetrics(),
    )
    text = "".join(token.text for token in tokens)
    return event, result_of(event, text, tuple(token.token_id for token in tokens))


class Endings:
    def __init__(
        self,
        store: Store,
        deaths: Deaths,
        *,
        retention_ms: int,
        max_crashes: int,
        on_closed: Callable[[str, JobState, JobResult], None],
    ) -> None:
        """`on_closed`: see Ledger."""
        self._store = store
        self._deaths = deaths
        self._retention_ms = retention_ms
        self._max_crashes = max_crashes
        self._on_closed = on_closed

    def finish(self, finish: Finish) -> Finished:
        """By the owner. Adds the ledger's share of the metrics."""
        result_metrics = self._store.merged_metrics(finish.job_id, finish.event.metrics)
        event = timings.with_metrics(finish.event, result_metrics)
        result = result_of(event, finish.text, finish.token_ids)
        measured = told(finish.measured, self._store.client)
        reply = self._write("finish", finish.job_id, finish.fence, finish.model, event, result, measured)
        return Finished(reply, result)

    def close(self, job_id: str, fence: int, verdict: str) -> bool:
        """Ends a queued job that nobody owns. False if it has been claimed or closed since `fence` was read. The result
        has the tokens that are there: a job whose stream was lost must end, too."""
        model, seq, history, n_prompt = self._store.fields(job_id, ["model", "seq", "history", "prompt_tokens"])
        if model is None or seq is None:
            return False
        event, result = failure(
            self._store.stored_tokens(job_id, int(seq)),
            self._closing_error(verdict, history),
            state=CLOSING_STATES[verdict],
            seq=int(seq) + 1,
            n_prompt=int(n_prompt or 0),
            metrics=self._store.merged_metrics(job_id, JobMetrics()),
        )
        if self._write("close", job_id, fence, model, event, result, uuid.uuid4().hex) is not Reply.OK:
            return False
        self._on_closed(job_id, event.state, result)
        return True

    def end_unreadable(self, job_id: str, fence: int, model: str, tokens: list[TokenEvent]) -> None:
        """Fails a job that was just claimed: no other worker of this version could read its request either."""
        (n_prompt,) = self._store.fields(job_id, ["prompt_tokens"])
        error = InternalError("the recorded request is not one that this version of Woolly can read")
        event, result = failure(tokens, error, n_prompt=int(n_prompt or 0))
        finished = self.finish(Finish(job_id, fence, model, event, result.token_ids, result.text))
        if finished.reply is Reply.OK:
            self._on_closed(job_id, event.state, finished.result)

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

    def _write(
        self,
        script: str,
        job_id: str,
        fence: int,
        model: str,
        event: DoneEvent | FailedEvent,
        result: JobResult,
        last_arg: str,
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
            last_arg,
        ]
        return Reply(self._store.call(script, names, args))
