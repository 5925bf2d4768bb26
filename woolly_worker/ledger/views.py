"""A job's record as readers see it, made from the fields of its hash. Shared by the ledger and its async reader."""

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, TypeAdapter

from woolly_worker.contract.errors import InternalError, JobNotFound
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import JobResult, JobView
from woolly_worker.contract.losses import LostLease, WorkerEnding, said_of
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
    "history",
]


class _Loss(BaseModel):
    """An entry of a record's history, as `lose_lease` in shared.lua writes it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    owner: str
    attempt: int
    seq: int
    alone: bool = False
    lease_ended_ms: float
    noticed_ms: float


_history = TypeAdapter(list[_Loss])
_metadata = TypeAdapter(dict[str, str])


def view_of(job_id: str, fields: Sequence[str | None], endings: Mapping[str, WorkerEnding]) -> JobView:
    """`endings`: what is known of the ends of `lost_workers(fields)`. Raises JobNotFound for a record that is not there
    (any more), and InternalError for one that is damaged."""
    state, model, priority, tenant, metadata, created, started, finished, attempts, crashes, seq, cancel, result = (
        fields[:-1]
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
            history=losses_of(fields[-1], endings),
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


def lost_workers(fields: Sequence[str | None]) -> list[str]:
    """The workers that a job lost, from the same fields as `view_of`, which says what is wrong with them if none can be
    read."""
    try:
        return workers_in(fields[-1])
    except ValueError:
        return []


def workers_in(history: str | None) -> list[str]:
    """Raises ValueError as `load_history`."""
    return [loss.owner for loss in load_history(history)]


def losses_of(history: str | None, endings: Mapping[str, WorkerEnding]) -> tuple[LostLease, ...]:
    """The field `history` of a record, joined with what is known about the ends of its workers. That is done when it is
    read, because a lost lease and a death certificate come in either order. Raises ValueError as `load_history`."""
    return tuple(
        LostLease(
            worker=loss.owner,
            attempt=loss.attempt,
            tokens=loss.seq,
            alone=loss.alone,
            lease_ended_at=loss.lease_ended_ms / 1000,
            noticed_at=loss.noticed_ms / 1000,
            how=said_of(endings.get(loss.owner)),
            ending=endings.get(loss.owner),
        )
        for loss in load_history(history)
    )


def lane_counts_of(fields: Mapping[str, str]) -> LaneCounts:
    names = [*(state.value for state in JobState), "queued_tokens"]
    return LaneCounts(**{name: count_of(fields, f"all:{name}") for name in names})


def count_of(fields: Mapping[str, str], name: str) -> int:
    """One number of a model's lanes. What is no number counts nothing."""
    text = fields.get(name, "0")
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 16 else 0


def dump_metadata(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata))


def load_metadata(metadata: str | None) -> dict[str, str]:
    """Raises ValueError unless it is a JSON object of texts."""
    return _metadata.validate_json(metadata or "{}", strict=True)


def load_history(history: str | None) -> list[_Loss]:
    """Raises ValueError unless it is a JSON list of lost leases."""
    return _history.validate_json(history or "[]")
