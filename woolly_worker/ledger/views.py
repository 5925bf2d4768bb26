"""A job's record as readers see it, made from the fields of its hash. Shared by the ledger and its async reader."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from woolly_worker.contract.errors import InternalError, JobNotFound
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent, job_event_adapter
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
    """Raises JobNotFound for a record that is not there, or no longer, and InternalError for one that is damaged."""
    state, model, priority, tenant, metadata, created, started, finished, attempts, crashes, seq, cancel, result = (
        fields
    )
    if state is None or model is None or tenant is None:
        raise JobNotFound(f"no job '{job_id}'")
    try:
        return JobView(
            id=job_id,
            state=JobState(state),
            model=model,
            priority=int(priority or 0),
            tenant=tenant,
            metadata=load_metadata(metadata),
            created_at=int(created or 0) / 1000,
            started_at=None if started is None else int(started) / 1000,
            finished_at=None if finished is None else int(finished) / 1000,
            attempts=int(attempts or 0),
            crashes=int(crashes or 0),
            last_seq=int(seq or 0),
            cancel_requested=cancel == "1",
            result=None if result is None else JobResult.model_validate_json(result),
        )
    except (ValueError, OverflowError) as error:
        # Not `from error`: what Python says of a text that it cannot read quotes the text.
        raise InternalError(f"the record of job '{job_id}' is damaged: {type(error).__name__}") from None


def event_of(entry_id: str, fields: Mapping[str, str]) -> TokenEvent | DoneEvent | FailedEvent | None:
    """What an entry of a job's stream says, or None if the ledger did not write it."""
    try:
        event = job_event_adapter.validate_json(fields["e"])
    except (ValueError, LookupError):
        return None
    return event if not isinstance(event, StateEvent) and entry_id == f"{event.seq}-0" else None


def lane_counts_of(fields: Mapping[str, str]) -> LaneCounts:
    """A count that is no number counts nothing."""
    counts: dict[str, int] = {}
    for state in JobState:
        text = fields.get(f"all:{state.value}", "0")
        counts[state.value] = int(text) if text.removeprefix("-").isdecimal() and len(text) < 16 else 0
    return LaneCounts(**counts)


def dump_metadata(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata))


def load_metadata(metadata: str | None) -> dict[str, str]:
    """Raises ValueError unless it is a JSON object of texts."""
    loaded = json.loads(metadata or "{}")
    if not isinstance(loaded, dict) or not all(isinstance(value, str) for value in loaded.values()):
        raise ValueError("no JSON object of texts")
    return loaded


def load_history(history: str | None) -> list[dict[str, Any]]:
    """Raises ValueError unless it is a JSON list of objects."""
    losses = json.loads(history or "[]")
    # Lua writes an empty list as an empty object.
    if losses != {} and not (isinstance(losses, list) and all(isinstance(loss, dict) for loss in losses)):
        raise ValueError("no JSON list of objects")
    return list(losses)
