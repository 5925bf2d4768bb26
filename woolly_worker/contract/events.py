"""What a job's stream carries: one tagged union, readable by `type`.

Token and terminal events are the record: they live in the job's Redis stream under the id `<seq>-0`, seq 1, 2, 3 ...
without gap, the terminal event last. State events are news: published for whoever listens, never stored, no seq.
Readers skip fields they do not know.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from woolly_worker.contract.jobs import ErrorInfo, FinishReason, JobMetrics, TokenLogprob, Usage
from woolly_worker.contract.states import JobState


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class TokenEvent(Event):
    """One generated token. `text` is what it adds to the output: empty while part of a character or of a possible
    stop string is held back."""

    type: Literal["token"] = "token"
    seq: int = Field(ge=1)
    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] | None = Field(
        None, description="the alternatives asked for, best first; then the chosen token if it is not among them"
    )


class StateEvent(Event):
    """The job changed state (or made prefill progress) without adding to its stream."""

    type: Literal["state"] = "state"
    state: JobState
    attempt: int = 0
    prefill_done: int | None = Field(None, description="prompt tokens computed so far")
    prefill_total: int | None = None


class DoneEvent(Event):
    """Terminal: the job succeeded. `text` is what had been held back and now follows the last token."""

    type: Literal["done"] = "done"
    seq: int = Field(ge=1)
    state: Literal[JobState.SUCCEEDED] = JobState.SUCCEEDED
    finish_reason: FinishReason
    text: str = ""
    usage: Usage
    metrics: JobMetrics


class FailedEvent(Event):
    """Terminal: the job failed, was cancelled, or expired."""

    type: Literal["failed"] = "failed"
    seq: int = Field(ge=1)
    state: Literal[JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]
    error: ErrorInfo
    usage: Usage = Usage()
    metrics: JobMetrics = JobMetrics()


TerminalEvent = DoneEvent | FailedEvent
JobEvent = Annotated[TokenEvent | StateEvent | DoneEvent | FailedEvent, Field(discriminator="type")]

job_event_adapter: TypeAdapter[TokenEvent | StateEvent | DoneEvent | FailedEvent] = TypeAdapter(
    JobEvent, config=ConfigDict(hide_input_in_errors=True)
)
