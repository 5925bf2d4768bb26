"""What the two sides agree on, when somebody does not keep to it."""

import pytest
from pydantic import TypeAdapter, ValidationError

from woolly_worker.contract.events import TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import ChatMessage, JobRequest, JobResult

SECRET = "what nobody else may read"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TypeAdapter(JobRequest), {"model": "m", "prompt": {"text": SECRET}}),
        (TypeAdapter(JobRequest), {"model": "m", "messages": [{"role": "user", "content": [SECRET]}]}),
        (TypeAdapter(JobRequest), SECRET),
        (TypeAdapter(ChatMessage), {"role": "user", "content": [SECRET]}),
        (TypeAdapter(JobResult), {"text": [SECRET]}),
        (TypeAdapter(TokenEvent), {"seq": 1, "token_id": 1, "text": [SECRET]}),
        (job_event_adapter, {"type": "token", "seq": 1, "token_id": 1, "text": [SECRET]}),
    ],
)
def test_an_error_does_not_quote_what_it_refuses(kind: "TypeAdapter[object]", value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.validate_python(value)
    assert SECRET not in str(caught.value)
