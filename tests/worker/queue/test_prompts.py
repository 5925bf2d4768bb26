"""What becomes of a request before the engine sees it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from scripted import Letters, request

from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.queue.prompts import prompt_ids

HELLO = ({"role": "user", "content": "hello", "name": "me"},)


class Echo:
    """A chat template that writes down what it gets."""

    def render(self, messages: Any, *, now: datetime | None = None) -> str:
        return f"{[dict(message) for message in messages]} {now}"


def text(ids: tuple[int, ...]) -> str:
    return "".join(map(chr, ids))


def test_text_and_ids() -> None:
    assert text(prompt_ids(request(prompt="abc"), Letters(), None)) == "abc"
    assert prompt_ids(request(prompt=(1, 2, 299)), Letters(), None) == (1, 2, 299)


def test_messages_go_through_the_template_with_the_date_of_the_job() -> None:
    created_at = datetime(2024, 2, 29, 23, 59, tzinfo=UTC).timestamp()
    rendered = text(prompt_ids(request(prompt=None, messages=HELLO), Letters(), Echo(), created_at=created_at))
    assert rendered == "[{'role': 'user', 'content': 'hello', 'name': 'me'}] 2024-02-29 23:59:00+00:00"


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"prompt": None, "messages": HELLO}, "messages", "no chat template"),
        ({"prompt": (5, 300)}, "prompt", "token id 300 is not in the vocabulary of 300"),
        ({"sampling": {"logit_bias": {300: 1.0}}}, "logit_bias", "token id 300"),
        ({"sampling": {"logit_bias": {-1: 1.0}}}, "logit_bias", "token id -1"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(changes: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        prompt_ids(request(**changes), Letters(), None)
    assert caught.value.param == param


def test_a_prompt_without_tokens_is_refused() -> None:
    class Silent(Letters):
        def encode_chat(self, rendered: str) -> list[int]:
            return []

    with pytest.raises(InvalidRequest, match="no tokens"):
        prompt_ids(request(prompt="x"), Silent(), None)
