"""What an OpenAI client gets back: completions, chat completions, their chunks, and log probabilities.

Shapes only. Values come from a job's events; ids from the job's id, so that `woolly watch` finds a completion.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import FinishReason, TokenLogprob, Usage

# Stands for "impossible" where JSON has no minus infinity; the value OpenAI uses.
LOWEST_LOGPROB = -9999.0


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True)


class PromptTokensDetails(Shape):
    cached_tokens: int = Field(0, description="tokens of the prompt that were in the KV cache already")


class OpenAIUsage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> "OpenAIUsage":
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        )


class CompletionLogprobs(Shape):
    """The legacy shape: four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int] = Field(description="where each token's text begins, in characters of the completion")


class CompletionChoice(Shape):
    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Shape):
    """Answer of /v1/completions, and equally one chunk of its stream."""

    id: str = Field(examples=["cmpl-0197c5…"])
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Unix seconds")
    model: str
    choices: list[CompletionChoice]
    usage: OpenAIUsage | None = None


class TopLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatMessageOut(Shape):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Shape):
    index: int = 0
    message: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Shape):
    """Answer of /v1/chat/completions."""

    id: str = Field(examples=["chatcmpl-0197c5…"])
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds")
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage


class ChatChunkChoice(Shape):
    index: int = 0
    delta: dict[str, str]
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Shape):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: OpenAIUsage | None = None


def completion_logprobs(tokens: Sequence[TokenEvent], offset: int) -> CompletionLogprobs:
    """`offset` characters of completion came before these tokens."""
    texts, logprobs, alternatives, offsets = [], [], [], []
    for token in tokens:
        texts.append(_token_text(token))
        logprobs.append(_finite(token.logprob))
        alternatives.append({top.text: _finite(top.logprob) for top in token.top_logprobs or ()})
        offsets.append(offset)
        offset += len(token.text)
    return CompletionLogprobs(tokens=texts, token_logprobs=logprobs, top_logprobs=alternatives, text_offset=offsets)


def chat_logprobs(tokens: Sequence[TokenEvent], n_top: int) -> ChatLogprobs:
    """`n_top` alternatives at most: the worker may report the chosen token beside them."""
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                token=(text := _token_text(token)),
                logprob=_finite(token.logprob),
                bytes=_bytes(text),
                top_logprobs=[_top(top) for top in (token.top_logprobs or ())[:n_top]],
            )
            for token in tokens
        ]
    )


def _token_text(token: TokenEvent) -> str:
    """The token's own text where the worker told it: what it added to the output may have been held back."""
    own = (top.text for top in token.top_logprobs or () if top.token_id == token.token_id)
    return next(own, token.text)


def _top(top: TokenLogprob) -> TopLogprob:
    return TopLogprob(token=top.text, logprob=_finite(top.logprob), bytes=_bytes(top.text))


def _bytes(text: str) -> list[int] | None:
    """None where the token is part of a character: its bytes are not those of its printable text."""
    return None if "\ufffd" in text else list(text.encode())


def _finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)


def dump(shape: Shape) -> str:
    return shape.model_dump_json()


class OpenAIModel(Shape):
    """One entry of GET /v1/models: OpenAI's four fields, then Woolly's."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when a worker first announced it, Unix seconds")
    owned_by: str = "woolly"
    workers: int = Field(description="live workers that serve it; with none, its jobs wait")
    woolly: dict[str, Any] = Field(description="the model card: architecture, quantization, n_ctx, ...")


class OpenAIModelList(Shape):
    object: Literal["list"] = "list"
    data: list[OpenAIModel]
