"""A job's timeline: where its time went, from submit to its end, cut into consecutive parts of one kind each.

    submit       claim        engine has it           last step        record
      |  queued    |  starting   |  admission, prefill,   |  writing     |
      |            |             |  decode, stalls        |              |
      |<-------- Redis's clock -->|<--- the worker's ---->|<-- Redis's ->|

A worker measures its part with a clock of its own, and looks at Redis's when it gets the job and when it writes what
became of it. Redis's times are whole milliseconds, so its part may seem to end behind its record: it is moved then,
and `starting` is shorter. What the two clocks disagree about beyond that belongs to no part and is told as
`unattributed_seconds`. A worker that died told nothing: its attempt is one part `running`, up to its last sign of life,
and one part `lost`; as long as nobody has noticed, the second is a stall, `silent`.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class PartKind(StrEnum):
    QUEUED = "queued"  # until a worker claims it; again after each attempt that did not end it
    STARTING = "starting"  # claimed, and the prompt is being made into tokens
    ADMISSION = "admission"  # waits in the engine for a slot and for KV blocks
    CACHE_HIT = "cache_hit"  # of no length: so many tokens did not have to be computed
    PREFILL = "prefill"  # one chunk of the prompt (or of tokens whose KV blocks were taken away)
    DECODE = "decode"  # steps of a token each
    STALL = "stall"  # it could not go on; `cause` says why
    WRITING = "writing"  # the engine is done with it, its end is not in Redis yet: Redis is slow or away
    RUNNING = "running"  # with a worker that has not told more, be it that it still runs or that it was lost
    LOST = "lost"  # from the last sign of life of a worker until its loss was noticed


class StallCause(StrEnum):
    PREEMPTED = "preempted"  # gave up its KV blocks to an older job and waits for others
    OTHERS = "others"  # has a slot, but the steps were those of others
    SILENT = "silent"  # no sign of its worker for longer than usual, and nobody has noticed a loss: it may come back
    REDIS = "redis"  # tokens could not be written, and nothing more is computed than can be written


class AttemptEnd(StrEnum):
    LOST = "lost"  # its lease ran out
    RELEASED = "released"  # its worker gave the job back
    ENDED = "ended"  # the job ended with it


class _Lenient(BaseModel):
    """Fields that a newer version adds are skipped."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class MeasuredPart(_Lenient):
    """A part as a worker measures it."""

    kind: PartKind
    cause: StallCause | None = Field(None, description="of a stall")
    seconds: float = Field(ge=0)
    n_tokens: int | None = Field(None, description="tokens computed, or found in the prefix cache")
    n_steps: int | None = Field(None, description="steps of the engine")
    batch_size_mean: float | None = Field(None, description="sequences per step, this one included")
    n_merged: int = Field(
        1, description="more than 1: so many later parts of this kind, added up. Very many are not listed one by one"
    )


class TimelinePart(MeasuredPart):
    attempt: int = Field(description="0: before the first claim")
    start_seconds: float = Field(description="from submit")


class TimelineAttempt(_Lenient):
    """One claim of the job."""

    attempt: int = Field(ge=1)
    worker_id: str
    claimed_seconds: float = Field(description="from submit, as the next")
    ended_seconds: float | None = Field(None, description="absent while it runs")
    end: AttemptEnd | None = None


class Timeline(_Lenient):
    seconds: float = Field(description="submit -> terminal event, or until now; by Redis's clock")
    unattributed_seconds: float = Field(
        description="what the parts do not add up to, or, below 0, exceed: worker and Redis have different clocks"
    )
    parts: tuple[TimelinePart, ...]
    attempts: tuple[TimelineAttempt, ...]
