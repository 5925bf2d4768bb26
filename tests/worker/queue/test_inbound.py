"""What a message has to be before Celery sees it."""

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.records import Bell, BenchmarkCall
from woolly_worker.queue.app import create_app
from woolly_worker.queue.inbound import Door, problem_of

SECRET = "the prompt that nobody may log"


def body_of(*content: Any) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """A bell as Celery 5.7 writes it."""
    job_id = "cf4cbff4fa7246adbc260cac923ec06d"
    return {
        "body": body_of([job_id], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "woolly.generate", "id": f"{job_id}.1", "timelimit": [None, None]},
        "properties": {
            "delivery_tag": "10916158-7c11-47be-b7ff-2483f064cb78",
            "delivery_info": {"exchange": "", "routing_key": "m.tiny"},
            "body_encoding": "base64",
            "priority": 1,
        },
    }


def test_what_woolly_sends_is_let_in(redis_url: str) -> None:
    app = create_app(redis_url)
    app.send_task(**Bell("j", "tiny", 1).send_task_options())
    app.send_task(**BenchmarkCall("c", "tiny", "token_generation", 3).send_task_options())
    app.close()
    with connect(redis_url) as client:
        for name in (keys.bells("tiny"), keys.benchmarks("tiny")):
            (message,) = client.lrange(name, 0, -1)
            assert problem_of(json.loads(message)) is None


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("headers.task", "os.system", "headers.task: literal_error"),
        ("headers.task", ["woolly.generate"], "headers.task: literal_error"),
        ("headers.id", None, "headers.id: string_type"),
        ("headers.id", "x" * 10_000, "headers.id: string_too_long"),
        ("headers.expires", "never", "headers.expires: datetime_from_date_parsing"),
        ("headers.eta", "2030-01-01T00:00:00", "headers.eta: none_required"),
        ("headers", None, "headers: model_type"),
        ("properties.priority", "high", "properties.priority: int_type"),
        ("properties.priority", 77, "properties.priority: less_than_equal"),
        ("properties.delivery_tag", 1, "properties.delivery_tag: string_type"),
        ("content-type", "application/x-python-serialize", "the message: literal_error"),
        ("body", base64.b64encode(b"\x80\x04K\x01.").decode(), "the message: json_invalid"),
        ("body", "!!!", "the body is not in base64: Error"),
        ("body", base64.b64encode(b"[" * 10_000).decode(), "the message: json_invalid"),
        ("body", body_of([], {}, {}), "0.0: missing"),
        ("body", body_of(["a", "b"], {}, {}), "0: too_long"),
        ("body", body_of([1], {}, {}), "0.0: string_type"),
        ("body", body_of([SECRET], {}, {}), "0.0: string_pattern_mismatch"),
        ("body", body_of(["j:events"], {}, {}), "0.0: string_pattern_mismatch"),
        ("body", body_of(["x" * 10_000], {}, {}), "0.0: string_too_long"),
        ("body", body_of(["j"], {SECRET: 1}, {}), "1: extra_forbidden"),
        ("body", body_of(["j"], {}, {"chain": [SECRET]}), "2.chain: none_required"),
        ("body", body_of(SECRET), "0: tuple_type"),
    ],
)
def test_what_somebody_else_sends_is_named_and_not_quoted(
    good: dict[str, Any], path: str, value: Any, problem: str
) -> None:
    message = copy.deepcopy(good)
    *folders, name = path.split(".")
    place = message
    for folder in folders:
        place = place[folder]
    place[name] = value
    assert problem_of(message) == problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(message=json_values)
def test_anything_at_all_is_refused_without_a_word_of_it(message: Any) -> None:
    door = Door()
    assert not door.admits(message, "m.tiny")
    assert door.n_refused == 1


@given(data=st.data())
def test_a_good_message_with_anything_in_one_place(good: dict[str, Any], data: st.DataObject) -> None:
    message = copy.deepcopy(good)
    place = message[data.draw(st.sampled_from(["headers", "properties"]))] if data.draw(st.booleans()) else message
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    problem = problem_of(message)
    assert problem is None or 0 < len(problem) < 200
