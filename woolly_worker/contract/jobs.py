"""What a caller asks for (JobRequest) and what they get (JobResult, Usage, JobMetrics).

Unknown fields are refused here, so that no parameter is ever accepted and ignored. Nothing in this file knows a
model: whether a prompt fits into the context is the worker's business.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from woolly_worker.contract.errors import WoollyError
from woolly_worker.contract.losses import LostLease
from woolly_worker.contract.states import JobState

MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_DEADLINE_SECONDS = 365 * 86_400.0

FinishReason = Literal["stop", "length"]


def is_encodable(value: Any) -> bool:
    """Whether UTF-8 can carry every string in this JSON value. Lone surrogates, which JSON can escape, it cannot."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                return False
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
    return True


NOT_ENCODABLE = "holds a lone surrogate (\\ud800 to \\udfff), which is no text"


def _encodable(text: str) -> str:
    if not is_encodable(text):
        raise ValueError(NOT_ENCODABLE)
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Frozen(BaseModel):
    """What does not validate is not quoted in the error's text: it may be a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Requested(Frozen):
    """What callers send: infinities and NaN, which JSON parsers let pass, are refused."""

    model_config = ConfigDict(allow_inf_nan=False)


class SamplingParams(Requested):
    """How the next token is chosen. The order of the stages is that of the fields, as in `engine/sampler.py`."""

    logit_bias: dict[int, float] = Field(default_factory=dict, description="token id -> added to its logit")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="divides (or multiplies) logits of seen tokens")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="subtracted once from every generated token")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="subtracted per time a token was generated")
    temperature: float = Field(1.0, ge=0, le=10, description="0 is greedy")
    top_k: int = Field(0, ge=0, description="keep the k best; 0 keeps all")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set with this much probability")
    min_p: float = Field(0.0, ge=0, le=1, description="drop tokens below this share of the best one's probability")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed, same text; drawn at submit if absent")
    max_tokens: int | None = Field(None, ge=1, description="absent: as many as the context holds")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field((), max_length=MAX_STOP_STRINGS)
    ignore_eos: bool = False
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="alternatives to report; 0: the chosen token only",
    )


class ChatMessage(BaseModel):
    """One turn. Extra fields (`name`, `tool_call_id`, ...) are handed to the model's own template."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text

    @model_validator(mode="after")
    def extra_text(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not is_encodable([name, value]):
                raise PydanticCustomError("of_field", NOT_ENCODABLE, {"name": name})
        return self


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "str"
    return "tuple" if isinstance(value, list | tuple) else None


Prompt = Annotated[
    Annotated[Text, Tag("str")] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Tag("tuple")],
    Discriminator(
        _prompt_kind, custom_error_type="prompt_kind", custom_error_message="must be text or a list of token ids"
    ),
]


def _not_empty(value: Any) -> Any:
    if not value:
        raise ValueError("is empty")
    return value


class JobRequest(Requested):
    """A job as the ledger keeps it. Exactly one of `prompt` and `messages` is given."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Annotated[Prompt, AfterValidator(_not_empty)] | None = Field(None, description="text, or token ids")
    messages: Annotated[tuple[ChatMessage, ...], AfterValidator(_not_empty)] | None = None
    sampling: SamplingParams = SamplingParams()
    priority: int = Field(5, ge=0, le=9, description="0 is served first")
    tenant: Annotated[str, Field(min_length=1, max_length=128)] = "default"
    deadline_seconds: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_SECONDS, description="from submit; past it the job ends as expired"
    )
    metadata: dict[Text, Text] = Field(default_factory=dict, max_length=16, description="returned as given")

    @model_validator(mode="after")
    def one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError(
                "of_field", "exactly one of 'prompt' and 'messages' must be given", {"name": "prompt"}
            )
        return self


class Usage(Frozen):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = Field(0, description="prompt tokens whose keys and values were already in the KV cache")

    @classmethod
    def of(cls, n_prompt: int, n_completion: int) -> Self:
        return cls(prompt_tokens=n_prompt, completion_tokens=n_completion, total_tokens=n_prompt + n_completion)


class JobMetrics(Frozen):
    """How a job went. Seconds are wall clock unless they say CPU; a rate is None when nothing was timed."""

    queue_wait_seconds: float | None = Field(None, description="submit -> first claim")
    time_to_first_token_seconds: float | None = Field(None, description="submit -> first token of this job")
    total_seconds: float | None = Field(None, description="submit -> terminal event")
    prefill_seconds: float | None = Field(None, description="admission -> last prompt token computed")
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    inter_token_p50_seconds: float | None = None
    inter_token_p99_seconds: float | None = None
    cpu_seconds: float | None = Field(None, description="this job's share of the steps it took part in")
    batch_size_mean: float | None = Field(None, description="sequences per step, over this job's steps")
    batch_size_max: int | None = None
    kv_blocks: int | None = None
    n_cached_tokens: int | None = None
    n_prefill_tokens: int | None = Field(None, description="tokens computed before the first one of this attempt")
    attempts: int = Field(1, description="claims, the first included")
    crashes: int = 0


class ErrorInfo(Frozen):
    """A WoollyError on its way through the ledger."""

    code: str
    message: str
    http_status: int = 500
    retryable: bool = False
    param: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: WoollyError) -> Self:
        return cls(
            code=error.code,
            message=error.message,
            http_status=error.http_status,
            retryable=error.retryable,
            param=error.param,
            details=error.details,
        )


class TokenLogprob(Frozen):
    token_id: int
    text: str
    logprob: float


class JobResult(Frozen):
    """What a finished job leaves behind. `text` equals the concatenation of the stream's token texts."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    metrics: JobMetrics = JobMetrics()
    error: ErrorInfo | None = None


class JobView(Frozen):
    """The answer to a poll."""

    id: str
    state: JobState
    model: str
    priority: int
    tenant: str
    metadata: dict[str, str]
    created_at: float = Field(description="Unix seconds, by Redis's clock")
    started_at: float | None = Field(None, description="first claim")
    finished_at: float | None = None
    attempts: int = 0
    crashes: int = Field(0, description="workers that were lost with this job")
    history: tuple[LostLease, ...] = Field((), description="each of them, and how it ended")
    last_seq: int = Field(0, description="tokens in the stream so far; the terminal event counts as one more")
    cancel_requested: bool = False
    queue_position: int | None = Field(
        None, description="of a queued job: how many are expected to be started before it"
    )
    estimated_start_seconds: float | None = Field(
        None, description="of a queued job, from now; null while no worker is alive or none has been measured"
    )
    result: JobResult | None = Field(None, description="present once the state is terminal")
