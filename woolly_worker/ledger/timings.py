"""The ledger's share of a job's metrics: what only the record knows, added to what the engine measured."""

from collections.abc import Sequence

from woolly_worker.contract.events import DoneEvent, FailedEvent
from woolly_worker.contract.jobs import JobMetrics

# The fields of the job's hash that `merged` wants, in its order.
TIMING_FIELDS = ("created_ms", "claimed_ms", "first_token_ms", "attempts", "crashes")


def merged(metrics: JobMetrics, fields: Sequence[str | None], now_ms: int) -> JobMetrics:
    """`metrics` with waits, totals, attempts and crashes by Redis's clock. `fields` are those of TIMING_FIELDS."""
    created, claimed, first_token, attempts, crashes = (None if f is None else int(f) for f in fields)
    update: dict[str, float | int | None] = {"attempts": attempts or 0, "crashes": crashes or 0}
    if created is not None:
        update["total_seconds"] = (now_ms - created) / 1000
        if first_token is not None:
            update["time_to_first_token_seconds"] = (first_token - created) / 1000
        if claimed is not None:
            update["queue_wait_seconds"] = (claimed - created) / 1000
    return metrics.model_copy(update=update)


def with_metrics(event: DoneEvent | FailedEvent, metrics: JobMetrics) -> DoneEvent | FailedEvent:
    return event.model_copy(update={"metrics": metrics})
