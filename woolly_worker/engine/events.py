"""What goes into the engine (EngineRequest) and what comes out of it (EngineEvent).

Each sequence gives TokenOut with seq 1, 2, 3 ... without gap (a resumed one goes on behind its `resume_ids`), then
exactly one ending: SequenceDone or SequenceFailed with the next seq, or SequenceReleased. A dropped one gives nothing
more. Progress may come at any time before the ending: for long prefills, and as a sign of life of who waits. One that
is isolated and reaches its `alone_until` gives ProbationPassed behind that token.
"""

from dataclasses import dataclass

from woolly_worker.contract.errors import PoolExhausted, WoollyError
from woolly_worker.contract.jobs import ErrorInfo, FinishReason, SamplingParams, TokenLogprob, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.engine.metrics import EngineMetrics
from woolly_worker.engine.timeline import SequenceTimes


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A job as the engine needs it. `sampling.seed` is given; `deadline_seconds` counts from the submit."""

    job_id: str
    fence: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    resume_ids: tuple[int, ...] = ()  # tokens that an earlier owner has already emitted
    deadline_seconds: float | None = None
    alone_until: int | None = None  # on probation (Engine.isolate) until so many tokens have been generated


class EngineStopped(PoolExhausted):
    """This engine has ended: the request is fine, another engine may take it."""


@dataclass(frozen=True, slots=True)
class TokenOut:
    job_id: str
    fence: int
    seq: int
    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Tokens computed so far, of prompt and resumed completion; 0 while it waits for a slot or for KV blocks."""

    job_id: str
    fence: int
    n_done: int
    n_total: int


@dataclass(frozen=True, slots=True)
class ProbationPassed:
    """It has generated what it had to alone. Nothing is computed until `Engine.rejoin`."""

    job_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class SequenceDone:
    """It ended well. `text` had been held back and follows the last token's."""

    job_id: str
    fence: int
    seq: int
    finish_reason: FinishReason
    text: str
    usage: Usage
    metrics: EngineMetrics
    times: SequenceTimes


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    """It failed, was cancelled, or ran past its deadline: `state` says which."""

    job_id: str
    fence: int
    seq: int
    error: ErrorInfo
    state: JobState
    usage: Usage
    metrics: EngineMetrics
    times: SequenceTimes


@dataclass(frozen=True, slots=True)
class SequenceReleased:
    """The engine is being drained: the job goes back to the queue and can be resumed elsewhere."""

    job_id: str
    fence: int
    times: SequenceTimes


EngineEvent = TokenOut | PrefillProgress | ProbationPassed | SequenceDone | SequenceFailed | SequenceReleased


def error_info(error: WoollyError) -> ErrorInfo:
    return ErrorInfo(
        code=error.code,
        message=error.message,
        http_status=error.http_status,
        retryable=error.retryable,
        param=error.param,
        details=error.details,
    )
