"""A server that is gone, stalled, or comes back: 503 soon, never a hang; open streams ride it out."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer, free_port

CALLS = [
    ("POST", "/v1/jobs", {"model": MODEL, "prompt": "x"}),
    ("POST", "/v1/completions", {"model": MODEL, "prompt": "x"}),
    ("POST", "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs/abc", None),
    ("GET", "/v1/jobs/abc/events", None),
    ("POST", "/v1/jobs/abc/cancel", None),
    ("GET", "/v1/models", None),
    ("GET", "/api/v1/performance/stats", None),
]
SOON_SECONDS = 5.0


@pytest.fixture(scope="module")
def nowhere() -> Iterator[httpx.Client]:
    """An API whose Redis has never been there."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    with running_api(url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        yield http


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_503_and_retry_after(nowhere: httpx.Client, method: str, path: str, body: object) -> None:
    started = time.monotonic()
    answer = nowhere.request(method, path, json=body)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["code"] == "ledger_unavailable"
    assert time.monotonic() - started < SOON_SECONDS


def test_the_process_is_alive_but_not_ready(nowhere: httpx.Client) -> None:
    assert nowhere.get("/healthz").json() == {"status": "ok"}
    ready = nowhere.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["redis"]["status"] == "unavailable"
    assert "woolly_redis_up 0.0" in nowhere.get("/metrics").text


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path) as server:
        yield server


def test_a_stalled_server_does_not_hang_a_caller(own_server: EmbeddedServer) -> None:
    with closing(connect(own_server.url)) as client:
        ScriptedWorker(Ledger(client)).announce()
    with (
        running_api(own_server.url, redis_timeout_seconds=0.3) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).status_code == 202
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            for method, path, body in CALLS:
                assert http.request(method, path, json=body).status_code == 503
            assert time.monotonic() - started < len(CALLS) * 2
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        wait_for(lambda: http.get("/v1/models").status_code == 200)
        assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).status_code == 202


@pytest.mark.parametrize(
    ("refuse", "serve"),
    [
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
    ids=["without its replicas", "a replica"],
)
def test_a_submit_to_a_server_that_refuses_is_told_to_come_again(
    own_server: EmbeddedServer, refuse: str, serve: str
) -> None:
    with closing(connect(own_server.url)) as client:
        ScriptedWorker(Ledger(client)).announce()
        with running_api(own_server.url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
            client.execute_command(*refuse.split())
            for method, path, body in CALLS[:3]:
                response = http.request(method, path, json=body)
                assert response.status_code == 503
                assert "retry-after" in response.headers
            client.execute_command(*serve.split())
            assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).status_code == 202


def test_open_streams_ride_out_an_absence(own_server: EmbeddedServer) -> None:
    """Connections of readers are cut in the middle of a stream; both streams go on with the next token."""
    with closing(connect(own_server.url)) as client, running_api(own_server.url) as api:
        worker = ScriptedWorker(Ledger(client))
        worker.announce()
        permits = threading.Semaphore(2)
        script = worker.serve(Script(permits=permits))
        try:
            with openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0, timeout=20) as ai:
                texts = []
                for chunk in ai.completions.create(model=MODEL, prompt="x", stream=True):
                    texts.append(chunk.choices[0].text)
                    if len(texts) == 2:
                        client.client_kill_filter(_type="pubsub")
                        client.client_kill_filter(_type="normal", skipme=True)
                        permits.release(10)
            assert "".join(texts) == script.text
        finally:
            worker.stop()


def test_an_open_stream_ends_with_an_error_when_patience_is_over(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with closing(connect(server.url)) as client:
        ScriptedWorker(Ledger(client)).announce()
    with (
        running_api(server.url, ledger_patience_seconds=0.5, redis_timeout_seconds=0.3) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        job_id = http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).json()["id"]
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            next(lines)
            server.stop()
            rest = list(lines)
    assert "event: error" in rest
    data = next(line for line in rest[rest.index("event: error") :] if line.startswith("data: "))
    assert '"code":"ledger_unavailable"' in data


def test_redis_leaves_just_after_the_record_was_written(
    api: RunningApi, http: httpx.Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(job_id: str) -> None:
        raise LedgerUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(api.services.reader, "view", away)
        accepted = http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"})
    assert accepted.status_code == 202
    assert worker.ledger.view(accepted.json()["id"]).state == accepted.json()["state"] == "queued"


def test_a_record_whose_reply_was_lost_does_not_run_beside_its_repetition(
    api: RunningApi, http: httpx.Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    submit = api.services.ledger.submit

    def reply_lost(*args: Any, **options: Any) -> None:
        recorded.append(submit(*args, **options).job_id)
        raise LedgerUnavailable("the reply was lost")

    with monkeypatch.context() as patched:
        patched.setattr(api.services.ledger, "submit", reply_lost)
        assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).status_code == 503
    wait_for(lambda: worker.ledger.view(recorded[0]).state == "cancelled")


def test_a_record_written_after_the_caller_was_refused_does_not_run(
    redis_url: str, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread was given up, but goes on: at first there is no job to cancel."""
    looked_for = threading.Event()
    recorded: list[str] = []
    with (
        running_api(redis_url, redis_timeout_seconds=0.1) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        ledger = api.services.ledger
        submit, cancel = ledger.submit, ledger.cancel

        def late(*args: Any, **options: Any) -> Any:
            assert looked_for.wait(10)
            submitted = submit(*args, **options)
            recorded.append(submitted.job_id)
            return submitted

        def look(job_id: str) -> Any:
            try:
                return cancel(job_id)
            finally:
                looked_for.set()

        monkeypatch.setattr(ledger, "submit", late)
        monkeypatch.setattr(ledger, "cancel", look)
        assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "x"}).status_code == 503
        wait_for(lambda: recorded)
        wait_for(lambda: worker.ledger.view(recorded[0]).state == "cancelled")


def test_a_bell_that_could_not_be_rung_is_rung_by_the_reaper(redis_url: str) -> None:
    """The record is written and the bell is lost; nobody but the API is there to notice."""
    with closing(connect(redis_url)) as client, running_api(redis_url, reaper=True) as api:
        worker = ScriptedWorker(Ledger(client))
        worker.announce()
        ledger = Ledger(client, bell_seconds=0.2)
        submitted = ledger.submit(JobRequest(model=MODEL, prompt="x"))  # and nobody rings
        worker.serve()
        try:
            wait_for(lambda: ledger.view(submitted.job_id).state == "succeeded", 15)
        finally:
            worker.stop()
        assert api.metric("woolly_api_bells_total", outcome="rung") >= 1
