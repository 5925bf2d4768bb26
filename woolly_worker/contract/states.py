"""The states of a job and every change between them that is allowed. The ledger's scripts keep to this table."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # A queued job may fail without running: the reaper ends a job that keeps killing its workers.
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}),
    # Back to queued: the lease ran out, or the worker was drained.
    JobState.RUNNING: TERMINAL_STATES | {JobState.QUEUED},
    **{state: frozenset() for state in TERMINAL_STATES},
}


def may_become(old: JobState, new: JobState) -> bool:
    """Whether the table allows a job to go from `old` to `new`."""
    return new in TRANSITIONS[old]
