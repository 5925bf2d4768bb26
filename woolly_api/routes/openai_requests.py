"""What an OpenAI client may ask for, and the JobRequest it becomes.

Every field either reaches the job or is refused by name. OpenAI's parameters that Woolly does not have are accepted at
the value that asks for nothing (`n: 1`, `tools: []`), because client libraries send such defaults.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.contract.jobs import (
    MAX_DEADLINE_SECONDS,
    MAX_TOP_LOGPROBS,
    ChatMessage,
    JobRequest,
    SamplingParams,
    Text,
)

# OpenAI's own limits where the contract has none.
MAX_LOGIT_BIAS = 100.0
LEGACY_MAX_TOKENS = 16  # OpenAI's default for /v1/completions

NEUTRAL_EVERYWHERE: dict[str, tuple[Any, ...]] = {"n": (1,), "best_of": (1,), "logit_processors": ([],)}

NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = {**NEUTRAL_EVERYWHERE, "echo": (False,), "suffix": ("",)}

NEUTRAL_CHAT: dict[str, tuple[Any, ...]] = {
    **NEUTRAL_EVERYWHERE,
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # says nothing where there are no tools
    "parallel_tool_calls": (True, False),  # likewise
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "web_search_options": (),
    "moderation": (),
    "prompt_cache_key": ("",),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "safety_identifier": ("",),
}

NEUTRAL_MESSAGE: dict[str, tuple[Any, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
    "refusal": ("",),
    "annotations": ([],),
}


def drop_neutral(data: dict[str, Any], unsupported: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """`data` without its nulls (OpenAI's word for "not given") and without unsupported parameters at neutral values."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if value is None:
            continue
        if name not in unsupported:
            kept[name] = value
        elif not any(type(value) is type(neutral) and value == neutral for neutral in unsupported[name]):
            choices = " or ".join(["null", *(json.dumps(neutral) for neutral in unsupported[name])])
            context = {"name": name, "choices": choices}
            # `name` in the context becomes part of the error's param, see errors.py.
            raise PydanticCustomError(
                "unsupported", "is not supported by Woolly: leave it out, or give {choices}", context
            )
    return kept


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _stop_list(value: Any) -> Any:
    value = _one_or_many(value)
    return tuple(value) if isinstance(value, list) else value


def _token_bias(value: Any) -> Any:
    """JSON has no integer keys: `{"50256": -100}`."""
    if not isinstance(value, dict):
        raise ValueError("must be an object of token id to bias")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not str(key).isascii() or not str(key).isdigit():
            raise ValueError("keys must be token ids, digits only")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise ValueError(f"the bias of token {key} must be a number")
        # Written so that a NaN is refused as well.
        if not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
            raise ValueError(f"the bias of token {key} is {bias}, allowed are -{MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}")
        biases[int(key)] = float(bias)
    return biases


def _all_tokens(value: Any) -> Any:
    """-1 is how others say "no top-k"."""
    return 0 if value == -1 and not isinstance(value, bool) else value


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", title="Stream options")

    include_usage: StrictBool = Field(False, description="one more chunk before [DONE], with the usage")

    @model_validator(mode="before")
    @classmethod
    def neutral(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return drop_neutral(data, {"include_obfuscation": (False,)})
        return data


class OpenAIRequest(SamplingParams):
    """The parameters that both surfaces share: those of the contract, under OpenAI's names, plus extensions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: StrictStr = Field(min_length=1, max_length=200, description="a name from GET /v1/models")
    stream: bool = Field(False, description="answer as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="only with `stream`")
    stop: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], BeforeValidator(_stop_list)] = (
        Field((), max_length=16, description="one string or a list; the text ends before the first one to appear")
    )
    logit_bias: Annotated[dict[int, float], BeforeValidator(_token_bias)] = Field(
        default_factory=dict, description='token id to bias, -100 to 100: `{"50256": -100}`'
    )
    top_k: Annotated[int, BeforeValidator(_all_tokens)] = Field(
        0, ge=0, description="extension: keep the k best; 0 or -1 keeps all"
    )
    ignore_eos: bool = Field(False, description="extension: go on where the model would end, to max_tokens")
    user: StrictStr | None = Field(None, min_length=1, max_length=128, description="becomes the job's tenant")
    priority: int = Field(5, ge=0, le=9, description="extension: 0 is served first")
    deadline_seconds: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_SECONDS, description="extension: the job expires when it takes longer"
    )
    metadata: dict[Text, Text] = Field(default_factory=dict, max_length=16, description="kept with the job")

    @model_validator(mode="after")
    def options_need_a_stream(self) -> "OpenAIRequest":
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def own_name(self, param: str | None) -> str | None:
        """What this body calls a field of its job: those of `sampling` are among its own."""
        return None if param is None else param.removeprefix("sampling.")

    def _job(self, *, max_tokens: int | None, logprobs: int | None, **input_: Any) -> JobRequest:
        chosen = {name: getattr(self, name) for name in SamplingParams.model_fields}
        return JobRequest(
            model=self.model,
            sampling=SamplingParams(**{**chosen, "max_tokens": max_tokens, "logprobs": logprobs}),
            priority=self.priority,
            tenant=self.user or "default",
            deadline_seconds=self.deadline_seconds,
            metadata=self.metadata,
            **input_,
        )


def _prompt(value: Any) -> Any:
    """A string, a list of token ids, or a list that holds one of those."""
    if isinstance(value, str):
        if not value:
            raise ValueError("is empty")
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of token ids")
    if not value:
        raise ValueError("is an empty list")
    if all(isinstance(item, str | list) for item in value):
        if len(value) > 1:
            raise ValueError(f"{len(value)} prompts given, 1 is supported: send one request for each")
        return _prompt(value[0])
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int):
            raise ValueError("a list must hold token ids only")
        if item < 0:
            raise ValueError(f"token ids are not negative (given: {item})")
    return tuple(value)


class CompletionRequest(OpenAIRequest):
    """POST /v1/completions."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo", "prompt": "Once upon a time", "max_tokens": 32}]}
    )

    prompt: Annotated[Text | tuple[int, ...], BeforeValidator(_prompt)] = Field(
        description="a string, or a list of token ids; a list of one prompt is taken as that prompt"
    )
    max_tokens: StrictInt | None = Field(LEGACY_MAX_TOKENS, ge=1, description="OpenAI's default for this route: 16")
    logprobs: StrictInt | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="alternatives to report per token; 0: the chosen one only"
    )

    @model_validator(mode="before")
    @classmethod
    def neutral(cls, data: Any) -> Any:
        return drop_neutral(data, NEUTRAL_COMPLETION) if isinstance(data, dict) else data

    def to_job(self) -> JobRequest:
        return self._job(prompt=self.prompt, max_tokens=self.max_tokens, logprobs=self.logprobs)


def _content(value: Any) -> Any:
    """Text, or OpenAI's list of parts, of which only text parts are known here: they are joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            named = f"'{kind}'" if isinstance(kind, str) and len(kind) <= 32 else "unknown"
            raise ValueError(f"part {number} is of type {named}; only 'text' is supported")
        if not isinstance(part.get("text"), str) or set(part) - {"type", "text"}:
            raise ValueError(f"part {number} must hold 'type' and 'text', nothing else")
        texts.append(part["text"])
    return "".join(texts)


class InputMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # 'developer' is OpenAI's newer word for 'system'; the templates of open models know the older one.
    role: Annotated[
        Literal["system", "user", "assistant", "tool"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
    ] = Field(description="'developer' is taken as 'system'")
    content: Annotated[Text, BeforeValidator(_content)] = Field(
        description="a string, or a list of text parts (joined)"
    )
    name: str | None = Field(None, min_length=1, max_length=64, description="handed to the model's template")
    tool_call_id: str | None = Field(None, max_length=128, description="handed to the model's template")

    @model_validator(mode="before")
    @classmethod
    def neutral(cls, data: Any) -> Any:
        return drop_neutral(data, NEUTRAL_MESSAGE) if isinstance(data, dict) else data

    def to_contract(self) -> ChatMessage:
        return ChatMessage(**self.model_dump(exclude_none=True))


def _messages(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("must be a list of messages")
    if not value:
        raise ValueError("is an empty list")
    return tuple(value)


class ChatCompletionRequest(OpenAIRequest):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "demo", "messages": [{"role": "user", "content": "What is 2 + 3?"}], "stream": True}]
        }
    )

    messages: Annotated[tuple[InputMessage, ...], BeforeValidator(_messages)] = Field(description="oldest first")
    max_tokens: StrictInt | None = Field(None, ge=1, description="absent: as many as the context holds")
    max_completion_tokens: StrictInt | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens")
    logprobs: StrictBool = Field(False, description="report the log probability of each token")
    top_logprobs: StrictInt | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="alternatives per token; needs logprobs"
    )

    @model_validator(mode="before")
    @classmethod
    def neutral(cls, data: Any) -> Any:
        return drop_neutral(data, NEUTRAL_CHAT) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def consistent(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true", param="top_logprobs")
        newer, older = self.max_completion_tokens, self.max_tokens
        if newer is not None and older is not None and newer != older:
            raise InvalidRequest(
                f"'max_completion_tokens' is {newer} and 'max_tokens' is {older}: give one, or both the same",
                param="max_completion_tokens",
            )
        return self

    def own_name(self, param: str | None) -> str | None:
        name = super().own_name(param)
        return "max_completion_tokens" if name == "max_tokens" and self.max_completion_tokens is not None else name

    def to_job(self) -> JobRequest:
        return self._job(
            messages=tuple(message.to_contract() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
