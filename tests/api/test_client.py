"""WoollyClient: what Python callers and the command line see."""

import threading
from collections.abc import Iterator

import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_api.client import ApiUnavailable, WoollyClient
from woolly_worker.contract.errors import InvalidRequest, JobNotFound, ModelNotFound
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.server import free_port

REQUEST = JobRequest(model=MODEL, prompt="hello", sampling=SamplingParams(max_tokens=5))


def test_submit_wait_and_look(client: WoollyClient, worker: ScriptedWorker) -> None:
    script = worker.serve()
    job = client.submit(REQUEST)
    assert job.state in (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
    ended = client.wait(job.id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.result is not None
    assert ended.result.text == script.text
    assert client.get(job.id) == ended
    assert [listed.id for listed in client.jobs()] == [job.id]
    assert client.jobs(state=JobState.FAILED) == []
    (model,) = client.models()
    assert (model.id, model.workers) == (MODEL, 1)


def test_wait_comes_back_in_time(client: WoollyClient, worker: ScriptedWorker) -> None:
    job = client.submit(REQUEST)
    assert client.wait(job.id, timeout_seconds=0.2).state is JobState.QUEUED
    assert client.wait(job.id, timeout_seconds=0).state is JobState.QUEUED


def test_events(client: WoollyClient, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(held_back="."))
    events = list(client.events(client.submit(REQUEST).id))
    recorded = [event for event in events if not isinstance(event, StateEvent)]
    assert [event.seq for event in recorded] == [1, 2, 3, 4, 5]
    assert isinstance(recorded[-1], DoneEvent)
    assert "".join(event.text for event in recorded if isinstance(event, TokenEvent | DoneEvent)) == script.text
    job_id = worker.claims[0].job_id
    assert [e.seq for e in client.events(job_id, after_seq=3) if not isinstance(e, StateEvent)] == [4, 5]
    assert list(client.events(job_id, after_seq=5)) == []


def test_events_with_characters_that_end_lines_elsewhere(client: WoollyClient, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(pieces=("a\u2028b", "\u2029", "c\x85", "\x0b\x0c\x1c", "\r", "\r\n", "\n\n", "d")))
    events = client.events(client.submit(REQUEST).id)
    assert "".join(event.text for event in events if isinstance(event, TokenEvent)) == script.text


def test_what_no_encoding_carries_is_refused(client: WoollyClient, worker: ScriptedWorker) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        client.submit(REQUEST.model_copy(update={"prompt": "\ud800"}))
    with pytest.raises(InvalidRequest, match="surrogate"):
        client.get("\ud800")


def test_cancel(client: WoollyClient, worker: ScriptedWorker) -> None:
    job = client.submit(REQUEST)
    assert client.cancel(job.id).state is JobState.CANCELLED
    last = list(client.events(job.id))[-1]
    assert isinstance(last, FailedEvent)
    assert last.error.code == "cancelled"


def test_errors_are_those_of_the_server(client: WoollyClient, worker: ScriptedWorker) -> None:
    with pytest.raises(ModelNotFound) as missing:
        client.submit(REQUEST.model_copy(update={"model": "gpt-9"}))
    assert missing.value.details["available_models"] == [MODEL]
    for call in (client.get, client.wait, client.cancel, lambda job_id: list(client.events(job_id))):
        with pytest.raises(JobNotFound):
            call("nope")
    with pytest.raises(InvalidRequest) as wrong:
        client.jobs(limit=0)
    assert wrong.value.param == "limit"


def test_nobody_at_the_address() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with WoollyClient(address, patience_seconds=0.1) as client:
        for call in (client.get, client.wait, lambda job_id: list(client.events(job_id))):
            with pytest.raises(ApiUnavailable, match=address):
                call("any")


def test_events_go_on_at_another_server(redis_url: str, worker: ScriptedWorker) -> None:
    """The API is stopped in the middle of a stream, and started again at the same address."""
    permits = threading.Semaphore(2)
    worker.serve(Script(permits=permits))
    seen: list[int] = []
    port = free_port()

    def follow(events: Iterator[object]) -> None:
        seen.extend(event.seq for event in events if isinstance(event, TokenEvent | DoneEvent))

    with WoollyClient(f"http://127.0.0.1:{port}", patience_seconds=15) as client:
        with running_api(redis_url, port=port):
            job = client.submit(REQUEST)
            reader = threading.Thread(target=follow, args=(client.events(job.id),))
            reader.start()
            wait_for(lambda: worker.ledger.view(job.id).last_seq == 2)
        permits.release(2)
        wait_for(lambda: worker.ledger.view(job.id).state is JobState.SUCCEEDED)
        with running_api(redis_url, port=port):
            reader.join(15)
    assert seen == [1, 2, 3, 4, 5]


def test_something_else_at_the_address(api: RunningApi) -> None:
    with WoollyClient(api.url + "/docs") as client, pytest.raises(Exception, match="route") as caught:
        client.get("x")
    assert caught.value.code == "internal_error"  # type: ignore[attr-defined]
