"""The ledger's share of a job's metrics: what only the record knows, added to what the engine measured. And the line
that a log has for a job that ended, wherever it did."""

from collections.abc import Sequence
from typing import Any

from woolly_worker.contract.events import DoneEvent, FailedEvent
from woolly_worker.contract.jobs import JobMetrics, JobResult
from woolly_worker.contract.states import JobState

# The fields of the job's hash that `merged` wants, in its order.
TIMING_FIELDS = ("created_ms", "started_ms", "first_token_ms", "attempts", "crashes")


def merged(metrics: JobMetrics, fields: Sequence[str | None], now_ms: int) -> JobMetrics:
    """`metrics` with waits, totals, attempts and crashes by Redis's clock. `fields` are those of TIMING_FIELDS."""
    created, started, first_token, attempts, crashes = (None if f is None else int(f) for f in fields)
    update: dict[str, float | int | None] = {"attempts": attempts or 0, "crashes": crashes or 0}
    if created is not None:
        update["total_seconds"] = (now_ms - created) / 1000
        if first_token is not None:
            update["time_to_first_token_seconds"] = (first_token - created) / 1000
        if started is not None:
            update["queue_wait_seconds"] = (started - created) / 1000
    return metrics.model_copy(update=update)


def with_metrics(event: DoneEvent | FailedEvent, metrics: JobMetrics) -> DoneEvent | FailedEvent:
    return event.model_copy(update={"metrics": metrics})


def summary_fields(job_id: str, state: JobState, result: JobResult) -> dict[str, Any]:
    """Fields of the one line per job: time queued, tokens, rates, reason. Nothing of the prompt or the text."""
    metrics = result.metrics.model_dump(exclude_none=True)
    return {
        "job_id": job_id,
        "state": state.value,
        "finish_reason": result.finish_reason,
        "error": None if result.error is None else result.error.code,
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in metrics.items()},
    }
