"""A job's events -> OpenAI's answers: one object for each surface, stateful along one stream.

The two surfaces differ in shapes only; `openai.py` drives either of them through the same four calls.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

from woolly_api.routes.openai_shapes import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessageOut,
    Completion,
    CompletionChoice,
    OpenAIUsage,
    Shape,
    chat_logprobs,
    completion_logprobs,
)
from woolly_worker.contract.events import DoneEvent, TokenEvent


class Answer(Protocol):
    def for_job(self, job_id: str) -> Self:
        """Takes the id that the answer will carry."""
        ...

    def whole(self, tokens: Sequence[TokenEvent], done: DoneEvent) -> str: ...

    def opening(self) -> Iterator[str]:
        """Chunks that need no event."""
        ...

    def token(self, event: TokenEvent) -> Iterator[str]: ...

    def done(self, event: DoneEvent) -> Iterator[str]:
        """The held-back text, the finish reason, and the usage if it was asked for."""
        ...


def _json(chunk: Shape, *, usage_null: bool = True) -> str:
    """OpenAI sends `usage: null` in every chunk but the last if usage was asked for, and no such field otherwise."""
    return chunk.model_dump_json(exclude=None if usage_null else {"usage"})


class CompletionAnswer:
    def __init__(self, *, model: str, logprobs: int | None, include_usage: bool = False) -> None:
        self._model = model
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._id = ""
        self._created = int(time.time())
        self._offset = 0

    def for_job(self, job_id: str) -> Self:
        self._id = f"cmpl-{job_id}"
        return self

    def whole(self, tokens: Sequence[TokenEvent], done: DoneEvent) -> str:
        choice = CompletionChoice(
            text="".join(token.text for token in tokens) + done.text,
            logprobs=None if self._logprobs is None else completion_logprobs(tokens, 0),
            finish_reason=done.finish_reason,
        )
        return self._chunk([choice], OpenAIUsage.of(done.usage)).model_dump_json()

    def opening(self) -> Iterator[str]:
        yield from ()

    def token(self, event: TokenEvent) -> Iterator[str]:
        logprobs = None if self._logprobs is None else completion_logprobs([event], self._offset)
        self._offset += len(event.text)
        if event.text or logprobs is not None:
            choice = CompletionChoice(text=event.text, logprobs=logprobs)
            yield _json(self._chunk([choice]), usage_null=self._include_usage)

    def done(self, event: DoneEvent) -> Iterator[str]:
        choice = CompletionChoice(text=event.text, finish_reason=event.finish_reason)
        yield _json(self._chunk([choice]), usage_null=self._include_usage)
        if self._include_usage:
            yield _json(self._chunk([], OpenAIUsage.of(event.usage)))

    def _chunk(self, choices: list[CompletionChoice], usage: OpenAIUsage | None = None) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)


class ChatAnswer:
    def __init__(self, *, model: str, logprobs: int | None, include_usage: bool = False) -> None:
        self._model = model
        self._n_top = logprobs
        self._include_usage = include_usage
        self._id = ""
        self._created = int(time.time())

    def for_job(self, job_id: str) -> Self:
        self._id = f"chatcmpl-{job_id}"
        return self

    def whole(self, tokens: Sequence[TokenEvent], done: DoneEvent) -> str:
        choice = ChatChoice(
            message=ChatMessageOut(content="".join(token.text for token in tokens) + done.text),
            logprobs=None if self._n_top is None else chat_logprobs(tokens, self._n_top),
            finish_reason=done.finish_reason,
        )
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[choice],
            usage=OpenAIUsage.of(done.usage),
        ).model_dump_json()

    def opening(self) -> Iterator[str]:
        choice = ChatChunkChoice(delta={"role": "assistant", "content": ""})
        yield _json(self._chunk([choice]), usage_null=self._include_usage)

    def token(self, event: TokenEvent) -> Iterator[str]:
        logprobs = None if self._n_top is None else chat_logprobs([event], self._n_top)
        if event.text or logprobs is not None:
            choice = ChatChunkChoice(delta={"content": event.text}, logprobs=logprobs)
            yield _json(self._chunk([choice]), usage_null=self._include_usage)

    def done(self, event: DoneEvent) -> Iterator[str]:
        if event.text:
            choice = ChatChunkChoice(delta={"content": event.text})
            yield _json(self._chunk([choice]), usage_null=self._include_usage)
        choice = ChatChunkChoice(delta={}, finish_reason=event.finish_reason)
        yield _json(self._chunk([choice]), usage_null=self._include_usage)
        if self._include_usage:
            yield _json(self._chunk([], OpenAIUsage.of(event.usage)))

    def _chunk(self, choices: list[ChatChunkChoice], usage: OpenAIUsage | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
