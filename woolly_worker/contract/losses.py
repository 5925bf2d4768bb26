"""How a job lost its workers: a LostLease for each one that held it and was not heard of any more, the oldest first.

A lost lease is what the ledger knows. How the process ended is known only where somebody waited for it (the parent that
`woolly worker` has): that is the WorkerEnding, a death certificate.
"""

from pydantic import BaseModel, ConfigDict, Field

UNKNOWN = "lease ran out, end unknown"


class _Record(BaseModel):
    """Read from records that a later version may have written."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class WorkerEnding(_Record):
    """How a worker's process ended. One of `signal` and `exit_code` is given."""

    ended_at: float = Field(description="Unix seconds, by Redis's clock")
    signal: str | None = Field(None, description="what killed it, such as SIGSEGV")
    exit_code: int | None = None
    out_of_memory: bool | None = Field(None, description="whether the kernel killed it for memory; null: not known")


class LostLease(_Record):
    """One worker that held the job and was lost."""

    worker: str = Field(description="its worker id")
    attempt: int
    tokens: int = Field(description="in the stream when it was lost")
    alone: bool = Field(description="whether the worker computed this job and no other")
    lease_ended_at: float = Field(description="Unix seconds, by Redis's clock")
    noticed_at: float = Field(description="when a reaper or the next worker found out")
    how: str = Field(description="how the worker ended, in words")
    ending: WorkerEnding | None = Field(None, description="absent while nobody knows, as of a machine that is gone")


def said_of(ending: WorkerEnding | None) -> str:
    """How a worker ended, in words."""
    if ending is None:
        return UNKNOWN
    if ending.out_of_memory:
        return "killed by the kernel: out of memory"
    if ending.signal is not None:
        return f"killed by {ending.signal}"
    return f"ended with exit code {ending.exit_code}"
