"""A job's record as readers see it, made from the fields of its hash. Shared by the ledger and its async reader."""

import json
from collections.abc import Mapping, Sequence

from woolly_worker.contract.errors import JobNotFound
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


def view_of(job_id: str, fields: Sequence[str | None], endings: Mapping[str, WorkerEnding]) -> JobView:
    """`endings`: what is known of the ends of `lost_workers(fields)`. Raises JobNotFound for a record that is not there
    (any more)."""
    state, model, priority, tenant, metadata, created, started, finished, attempts, crashes, seq, cancel, result = (
        fields[:-1]
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
        history=losses_of(fields[-1], endings),
    )


def lost_workers(fields: Sequence[str | None]) -> list[str]:
    """The workers that a job lost, from the same fields as `view_of`."""
    return workers_in(fields[-1])


def workers_in(history: str | None) -> list[str]:
    return [loss["owner"] for loss in json.loads(history or "[]")]


def losses_of(history: str | None, endings: Mapping[str, WorkerEnding]) -> tuple[LostLease, ...]:
    """The field `history` of a record, joined with what is known about the ends of its workers. That is done when it is
    read, because a lost lease and a death certificate come in either order."""
    return tuple(
        LostLease(
            worker=loss["owner"],
            attempt=loss["attempt"],
            tokens=loss["seq"],
            alone=loss.get("alone", False),
            lease_ended_at=loss["lease_ended_ms"] / 1000,
            noticed_at=loss["noticed_ms"] / 1000,
            how=said_of(endings.get(loss["owner"])),
            ending=endings.get(loss["owner"]),
        )
        for loss in json.loads(history or "[]")
    )


def lane_counts_of(fields: Mapping[str, str]) -> LaneCounts:
    names = [*(state.value for state in JobState), "queued_tokens"]
    return LaneCounts(**{name: int(fields.get(f"all:{name}", 0)) for name in names})


def dump_metadata(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata))
