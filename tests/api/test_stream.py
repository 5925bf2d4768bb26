"""/v1/jobs/{id}/events: what the wire carries, and how a reader resumes."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

JOB = {"model": MODEL, "prompt": "hello"}


@dataclass
class Sse:
    id: str | None = None
    event: str | None = None
    data: str | None = None
    comment: str | None = None


def parse(lines: Iterator[str]) -> Iterator[Sse]:
    """The SSE specification's way of reading, comments kept."""
    current = Sse()
    for line in lines:
        if not line:
            yield current
            current = Sse()
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        setattr(current, field or "comment", value) if field in ("", "id", "event", "data") else None


def read(http: httpx.Client, job_id: str, **headers: str) -> list[Sse]:
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        return list(parse(response.iter_lines()))


def recorded(events: list[Sse]) -> list[tuple[str | None, str | None]]:
    return [(sse.id, sse.event) for sse in events if sse.id is not None]


WHOLE = [("1", "token"), ("2", "token"), ("3", "token"), ("4", "token"), ("5", "done")]


def submit(http: httpx.Client) -> str:
    return str(http.post("/v1/jobs", json=JOB).json()["id"])


def test_the_whole_stream_of_an_ended_job(http: httpx.Client, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(held_back="."))
    job_id = submit(http)
    http.get(f"/v1/jobs/{job_id}", params={"wait": 10})
    events = read(http, job_id)
    assert recorded(events) == WHOLE
    datas = [json.loads(sse.data) for sse in events if sse.id is not None and sse.data is not None]
    assert [data["seq"] for data in datas] == [1, 2, 3, 4, 5]
    assert "".join(data["text"] for data in datas) == script.text
    assert datas[-1]["metrics"]["decode_tokens_per_second"] == 25.0
    assert datas[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("seen", range(5))
def test_resume_behind_the_last_event_seen(http: httpx.Client, worker: ScriptedWorker, seen: int) -> None:
    worker.serve()
    job_id = submit(http)
    http.get(f"/v1/jobs/{job_id}", params={"wait": 10})
    assert recorded(read(http, job_id, **{"Last-Event-ID": str(seen)})) == WHOLE[seen:]
    by_query = http.get(f"/v1/jobs/{job_id}/events", params={"after": seen})
    assert recorded(list(parse(iter(by_query.text.splitlines())))) == WHOLE[seen:]


def test_who_has_seen_everything_is_told_to_stop_asking(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()
    job_id = submit(http)
    http.get(f"/v1/jobs/{job_id}", params={"wait": 10})
    assert http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "5"}).status_code == 204


@pytest.mark.parametrize("bad", ["-1", "five", "1-0"])
def test_an_event_id_that_is_none_is_refused(http: httpx.Client, worker: ScriptedWorker, bad: str) -> None:
    job_id = submit(http)
    refused = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": bad})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "last-event-id"


def test_live_tokens_with_heartbeats_while_nothing_comes(http: httpx.Client, worker: ScriptedWorker) -> None:
    permits = threading.Semaphore(0)
    job_id = submit(http)
    seen: list[Sse] = []
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        for sse in parse(response.iter_lines()):
            seen.append(sse)
            # The state it starts with shows that the reader has subscribed: from here on it misses no news.
            if sse.event == "state" and not worker.claims:
                worker.serve(Script(permits=permits))
            # Each token is let go only after a sign of life without one: the stream is live, not buffered.
            if sse.comment is not None:
                permits.release()
    assert recorded(seen) == WHOLE
    assert sum(sse.comment == "heartbeat" for sse in seen) >= 4
    states = [json.loads(sse.data) for sse in seen if sse.event == "state" and sse.data is not None]
    assert [state["state"] for state in states] == ["queued", "running", "running"]
    assert states[-1]["prefill_total"] == 7
    assert all(sse.id is None for sse in seen if sse.event == "state")


def test_any_replica_goes_on_where_another_stopped(
    redis_url: str, api: RunningApi, http: httpx.Client, worker: ScriptedWorker
) -> None:
    permits = threading.Semaphore(2)
    worker.serve(Script(permits=permits))
    job_id = submit(http)
    first: list[Sse] = []
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        for sse in parse(response.iter_lines()):
            first.append(sse)
            if sse.id == "2":
                break
    permits.release(2)
    with running_api(redis_url) as other, httpx.Client(base_url=other.url, timeout=20) as elsewhere:
        rest = read(elsewhere, job_id, **{"Last-Event-ID": "2"})
    assert recorded(first) + recorded(rest) == WHOLE


def test_a_reader_who_leaves_changes_nothing(api: RunningApi, http: httpx.Client, worker: ScriptedWorker) -> None:
    # Those of tests before may still be on their way out: an API notices at its next heartbeat.
    wait_for(lambda: api.metric("woolly_api_streams_open") == 0, 30)
    permits = threading.Semaphore(1)
    worker.serve(Script(permits=permits))
    job_id = submit(http)
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        events = parse(response.iter_lines())  # kept: an iterator that is dropped closes the connection
        next(sse for sse in events if sse.id == "1")
        wait_for(lambda: api.metric("woolly_api_streams_open") == 1)
    wait_for(lambda: api.metric("woolly_api_streams_open") == 0)
    wait_for(lambda: worker.ledger.client.pubsub_channels() == [])  # no subscription is left behind
    permits.release(3)
    view = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
    assert view["state"] == "succeeded"
    assert not view["cancel_requested"]


def test_a_cancelled_job_ends_its_stream(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(1)))
    job_id = submit(http)
    seen: list[Sse] = []
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        for sse in parse(response.iter_lines()):
            seen.append(sse)
            if sse.id == "1":
                http.post(f"/v1/jobs/{job_id}/cancel")
    assert recorded(seen) == [("1", "token"), ("2", "failed")]
    assert seen[-1].data is not None
    assert json.loads(seen[-1].data)["state"] == "cancelled"


def test_a_server_that_stops_ends_its_streams_at_once(redis_url: str, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(0)))
    with running_api(redis_url, shutdown_grace_seconds=30) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        job_id = submit(http)
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            next(lines)
            api.server.should_exit = True
            list(lines)  # ends, without an error, long before the grace time
    # The job does not care.
    assert worker.ledger.view(job_id).state in ("queued", "running")
