"""From a request to the ids that the engine computes: chat template, tokenizer, checks against the model."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from woolly_worker.contract.errors import InvalidRequest, no_chat_template
from woolly_worker.contract.jobs import JobRequest


class Encoder(Protocol):
    @property
    def n_vocab(self) -> int: ...
    def encode_chat(self, rendered: str) -> list[int]: ...


class Template(Protocol):
    def render(self, messages: Sequence[Mapping[str, Any]], *, now: datetime | None = None) -> str: ...


def prompt_ids(
    request: JobRequest, tokenizer: Encoder, chat: Template | None, *, created_at: float | None = None
) -> tuple[int, ...]:
    """Raises InvalidRequest naming the field.

    `created_at` (Unix seconds) is the date that a chat template may write into the prompt. It is the job's, not the
    attempt's, so that a job that goes on after midnight has the prompt it had before.

    Special tokens written out in a text prompt count as such, as in llama.cpp's server: whoever sends a raw prompt
    composes the model's template themselves.
    """
    _check_ids(request.sampling.logit_bias, tokenizer.n_vocab, "logit_bias")
    if request.messages is not None:
        if chat is None:
            raise no_chat_template()
        messages = [message.model_dump(exclude_none=True) for message in request.messages]
        now = None if created_at is None else datetime.fromtimestamp(created_at, UTC)
        ids: Sequence[int] = tokenizer.encode_chat(chat.render(messages, now=now))
    elif isinstance(request.prompt, str):
        ids = tokenizer.encode_chat(request.prompt)
    else:
        ids = request.prompt or ()
        _check_ids(ids, tokenizer.n_vocab, "prompt")
    if not ids:
        raise InvalidRequest("the prompt has no tokens", param="messages" if request.prompt is None else "prompt")
    return tuple(ids)


def _check_ids(ids: Sequence[int] | Mapping[int, float], n_vocab: int, param: str) -> None:
    for token_id in ids:
        if not 0 <= token_id < n_vocab:
            raise InvalidRequest(f"token id {token_id} is not in the vocabulary of {n_vocab}", param=param)
