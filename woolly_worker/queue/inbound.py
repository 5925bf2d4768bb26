"""What a message has to be before Celery sees it. Everything else is refused at the door, counted and logged.

Whoever can write to Redis can put anything into a queue. kombu and Celery trust it: a text that is not JSON, a header
of the wrong type or a task without an id ends the worker's loop, and what Celery refuses itself it logs with its body,
which may be somebody's prompt. So a message is compared here with the two kinds that Woolly sends, and one that is of
neither kind is dropped: it has left its list by then, so that it never comes back.
"""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from woolly_worker.ledger import keys
from woolly_worker.telemetry import log

_JobId = Annotated[str, Field(pattern=keys.JOB_ID_PATTERN, max_length=keys.MAX_JOB_ID_CHARACTERS)]
_Text = Annotated[str, Field(max_length=1000)]
_Seconds = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    """As JSON has it: no number is made of a text. Celery may add fields of its own."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class _Headers(_Strict):
    id: Annotated[str, Field(min_length=1, max_length=200)]
    task: Literal["woolly.generate", "woolly.benchmark"]
    eta: None = None
    expires: Annotated[datetime, Field(strict=False)] | None = None  # one that has passed is dropped by Celery, quietly
    timelimit: tuple[_Seconds | None, _Seconds | None] | None = Field((None, None), strict=False)
    shadow: _Text | None = None
    argsrepr: _Text | None = None
    kwargsrepr: _Text | None = None
    root_id: _Text | None = None
    parent_id: _Text | None = None
    group: None = None
    retries: Annotated[int, Field(ge=0)] = 0
    ignore_result: bool | None = None
    stamps: dict[str, Any] | None = None
    stamped_headers: list[str] | None = None


class _DeliveryInfo(_Strict):
    exchange: _Text
    routing_key: _Text


class _Properties(_Strict):
    delivery_tag: Annotated[str, Field(min_length=1, max_length=200)]
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    priority: Annotated[int, Field(ge=keys.BENCHMARK_PRIORITY, le=keys.BELL_PRIORITY)] = keys.BENCHMARK_PRIORITY
    correlation_id: _Text | None = None
    reply_to: _Text | None = None


class _Envelope(_Strict):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


class _Nothing(_Strict):
    model_config = ConfigDict(extra="forbid")


class _Embedded(_Nothing):
    """What Celery would call behind the task: nothing is ever asked for."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


# Arguments, keyword arguments, and what belongs behind the task.
_BODIES: dict[str, TypeAdapter[Any]] = {
    keys.TASK_GENERATE: TypeAdapter(tuple[tuple[_JobId], _Nothing, _Embedded]),
    keys.TASK_BENCHMARK: TypeAdapter(tuple[tuple[_JobId, _Text, int], _Nothing, _Embedded]),
}
# Names that may be told: those of other fields are somebody else's words.
_NAMES = frozenset().union(
    *(kind.model_fields for kind in (_Headers, _DeliveryInfo, _Properties, _Envelope, _Embedded))
)


def problem_of(message: Any) -> str | None:
    """What is wrong with a message as kombu has parsed it, or None. Names fields, never what they hold."""
    try:
        envelope = _Envelope.model_validate(message)
        _BODIES[envelope.headers.task].validate_json(base64.b64decode(envelope.body, validate=True))
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        where = [str(part) for part in first["loc"] if isinstance(part, int) or part in _NAMES]
        return f"{'.'.join(where) or 'the message'}: {first['type']}"
    except ValueError as error:
        return f"the body is not in base64: {type(error).__name__}"
    return None


class Door:
    """Counts what is refused. One per process, because kombu makes its channels itself."""

    def __init__(self) -> None:
        self.n_refused = 0

    def refuse(self, queue: str, reason: str, message: Any = None) -> None:
        self.n_refused += 1
        log.error("message refused", queue=queue[:80], reason=reason, message_id=_id_of(message))

    def admits(self, message: Any, queue: str) -> bool:
        problem = problem_of(message)
        if problem is not None:
            self.refuse(queue, problem, message)
        return problem is None


door = Door()


def _id_of(message: Any) -> str | None:
    """The message's id as far as it has one, short and printable: it comes from who knows where."""
    headers = message.get("headers") if isinstance(message, dict) else None
    found = headers.get("id") if isinstance(headers, dict) else None
    if not isinstance(found, str):
        return None
    return "".join(character if character.isprintable() else "?" for character in found[:48])
