"""A job's record as readers see it, made from the fields of its hash. Shared by the ledger and its async reader."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from woolly_worker.contract.errors import JobNotFound
from woolly_worker.contract.jobs import JobResult, JobView
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.records import LaneCounts

# In the order in which view_of takes them. The request, and so the prompt, is not among them.
VIEW_FIELDS = [
    "state",
    "model",
    "priority",
    "tenant",
    "metadata",
    "created_ms",
    "started_ms",
    "finished_ms",
    "attempts",
    "crashes",
    "seq",
    "cancel",
    "result",
]


def view_of(job_id: str, fields: Sequence[str | None]) -> JobView:
    """Raises JobNotFound for a record that is not there, or no longer."""
    state, model, priority, tenant, metadata, created, started, finished, attempts, crashes, seq, cancel, result = (
        fields
    )
    if state is None or model is None or tenant is None:
        raise JobNotFound(f"no job '{job_id}'")
    return JobView(
        id=job_id,
        state=JobState(state),
        model=model,
        priority=int(priority or 0),
        tenant=tenant,
        metadata=json.loads(metadata or "{}"),
        created_at=int(created or 0) / 1000,
        started_at=None if started is None else int(started) / 1000,
        finished_at=None if finished is None else int(finished) / 1000,
        attempts=int(attempts or 0),
        crashes=int(crashes or 0),
        last_seq=int(seq or 0),
        cancel_requested=cancel == "1",
        result=None if result is None else JobResult.model_validate_json(result),
    )


def lane_counts_of(fields: Mapping[str, str]) -> LaneCounts:
    names = [*(state.value for state in JobState), "queued_tokens"]
    return LaneCounts(**{name: int(fields.get(f"all:{name}", 0)) for name in names})


def dump_metadata(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata))


def load_history(history: str | None) -> list[dict[str, Any]]:
    losses: list[dict[str, Any]] = json.loads(history or "[]")
    return losses
