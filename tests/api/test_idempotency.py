"""Idempotency-Key over HTTP: however often it is asked, it is one job; a client that left may come back."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_api.client import WoollyClient
from woolly_worker.contract.errors import InvalidRequest, LedgerUnavailable
from woolly_worker.contract.idempotency import digest
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
JOB = {"model": MODEL, "prompt": "hello", "sampling": {"max_tokens": 8}}
TEXT = {"model": MODEL, "prompt": "hello"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
ROUTES = [
    ("/v1/jobs", JOB),
    ("/v1/completions", TEXT),
    ("/v1/chat/completions", CHAT),
    ("/api/v1/optimized/completions", TEXT),
    ("/api/v1/optimized/chat/completions", CHAT),
]


@pytest.fixture
def two_apis(redis_url: str) -> Iterator[tuple[RunningApi, RunningApi]]:
    """Two replicas over one ledger, patient with a busy machine."""
    patient = {"redis_timeout_seconds": 10, "first_byte_seconds": 20}
    with running_api(redis_url, **patient) as one, running_api(redis_url, **patient) as another:
        for api in (one, another):
            for path, _ in ROUTES:  # what FastAPI makes at the first request warns when two threads make it at once
                assert httpx.post(api.url + path, json={}).status_code == 400
        yield one, another


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def replayed(self) -> bool:
        return "idempotency-replayed" in self.headers

    @property
    def stream_text(self) -> str:
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


async def _post(url: str, path: str, body: bytes) -> Answer:
    """HTTP/1.0, so that the end of the answer is the end of the connection. httpx is slow with a thousand of them."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    headers = {**KEY, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    status, *rest = head.split("\r\n")
    named = dict(line.split(": ", 1) for line in rest)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in named.items()}, text)


def posted(urls: list[str], path: str, body: dict[str, Any]) -> list[Answer]:
    """The same request, under the same key, at all addresses at once."""

    async def all_at_once() -> list[Answer]:
        data = json.dumps(body).encode()
        return list(await asyncio.gather(*(_post(url, path, data) for url in urls)))

    return asyncio.run(all_at_once())


def look_twice(ledger: Ledger) -> tuple[str, ...]:
    """Two looks of the reaper at followed jobs, as if each time their grace time had passed."""
    found: tuple[str, ...] = ()
    for _ in range(2):
        for job_id in ledger.client.zrange(keys.FOLLOWED_JOBS, 0, -1):
            ledger.client.zadd(keys.FOLLOWED_JOBS, {job_id: 1})
        found += ledger.reap().abandoned
    return found


def test_a_thousand_concurrent_requests_to_two_apis_are_one_job(
    two_apis: tuple[RunningApi, RunningApi], worker: ScriptedWorker
) -> None:
    answers = posted([api.url for api in two_apis] * 500, "/v1/jobs", JOB)
    assert Counter(answer.status for answer in answers) == {202: 1000}
    assert len({json.loads(answer.text)["id"] for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert worker.ledger.lane_counts(MODEL).queued == 1
    assert sum(api.metric("woolly_api_jobs_submitted_total", model=MODEL) for api in two_apis) == 1
    assert sum(api.metric("woolly_api_jobs_replayed_total", model=MODEL) for api in two_apis) == 999


@pytest.mark.parametrize("stream", [False, True])
def test_many_completions_at_once_are_one_job_with_the_same_answer(
    two_apis: tuple[RunningApi, RunningApi], worker: ScriptedWorker, stream: bool
) -> None:
    script = worker.serve()
    urls = [api.url for api in two_apis] * 100
    answers = posted(urls, "/v1/completions", {**TEXT, "stream": stream})
    assert Counter(answer.status for answer in answers) == {200: 200}
    texts = {answer.stream_text if stream else json.loads(answer.text)["choices"][0]["text"] for answer in answers}
    assert texts == {script.text}
    assert len({answer.headers["x-woolly-job-id"] for answer in answers}) == len(worker.claims) == 1
    assert [answer.replayed for answer in answers].count(False) == 1


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_the_second_answer_is_that_of_the_first_and_says_so(
    http: httpx.Client, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    worker.serve()
    first, second = (http.post(path, json=body, headers=KEY) for _ in range(2))
    assert first.status_code == second.status_code == (202 if path == "/v1/jobs" else 200)
    assert first.json()["id"] == second.json()["id"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    wait_for(lambda: worker.ledger.lane_counts(MODEL).succeeded == 1)
    assert len(worker.claims) == 1


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_another_body_is_refused(http: httpx.Client, worker: ScriptedWorker, path: str, body: dict[str, Any]) -> None:
    worker.serve()
    first = http.post(path, json=body, headers=KEY).json()["id"]
    refused = http.post(path, json={**body, "priority": 1}, headers=KEY)
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert first.endswith(error["details"]["job_id"])
    assert "Retry-After" not in refused.headers
    assert "hello" not in refused.text
    other_path, other_body = ROUTES[1] if path == "/v1/jobs" else ROUTES[0]
    assert http.post(other_path, json=other_body, headers=KEY).status_code == 422


def test_tenants_do_not_meet(http: httpx.Client, worker: ScriptedWorker) -> None:
    ids = {http.post("/v1/jobs", json={**JOB, "tenant": name}, headers=KEY).json()["id"] for name in ("ann", "bob")}
    assert len(ids) == 2
    worker.serve()
    ids = {http.post("/v1/completions", json={**TEXT, "user": name}, headers=KEY).json()["id"] for name in ("c", "d")}
    assert len(ids) == 2


def test_what_makes_two_bodies_the_same() -> None:
    plain = JobRequest(model="m", prompt="x")
    spelled_out = JobRequest(model="m", prompt="x", priority=5, sampling=SamplingParams(temperature=1))
    assert digest("jobs", plain) == digest("jobs", spelled_out) != digest("completions", plain)
    one, two = (
        JobRequest(model="m", prompt="x", metadata=data) for data in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert digest("jobs", one) == digest("jobs", two) != digest("jobs", plain)
    assert digest("jobs", plain) != digest("jobs", JobRequest(model="m", prompt="x", sampling=SamplingParams(seed=1)))


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(
    ("keys_given", "said"),
    [
        ([""], "0 characters, allowed are 1 to 255"),
        (["k" * 256], "256 characters, allowed are 1 to 255"),
        (["a b"], "1 of 3 characters are not visible ASCII"),
        (["k\u00e9y"], "not visible ASCII"),
        (["a", "b"], "given 2 times, 1 is allowed"),
    ],
)
def test_a_key_that_is_none_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], keys_given: list[str], said: str
) -> None:
    headers = [("Idempotency-Key", key.encode("latin-1")) for key in keys_given]
    refused = http.post(path, json=body, headers=headers)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "Idempotency-Key")
    assert error["message"].startswith("Idempotency-Key: ")
    assert said in error["message"]


def test_a_client_that_comes_back_gets_the_stream_from_the_beginning(
    two_apis: tuple[RunningApi, RunningApi], worker: ScriptedWorker
) -> None:
    """Through another replica, and while the job is running; the job has not been cancelled in between."""
    script = worker.serve(Script(permits=threading.Semaphore(2)))
    assert script.permits is not None
    with openai.OpenAI(base_url=two_apis[0].url + "/v1", api_key="none", max_retries=0, timeout=20) as ai:
        stream = ai.completions.create(model=MODEL, prompt="hello", stream=True, extra_headers=KEY)
        assert next(iter(stream)).choices[0].text == " Once"
        stream.close()
    wait_for(lambda: worker.ledger.client.pubsub_channels() == [])
    assert worker.ledger.reap().abandoned == ()
    texts = []
    with openai.OpenAI(base_url=two_apis[1].url + "/v1", api_key="none", max_retries=0, timeout=20) as ai:
        for chunk in ai.completions.create(model=MODEL, prompt="hello", stream=True, extra_headers=KEY):
            texts.append(chunk.choices[0].text)
            if len(texts) == 2:
                assert look_twice(worker.ledger) == ()  # followed again
                script.permits.release(10)
    assert "".join(texts) == script.text
    assert (len(worker.claims), worker.cancelled) == (1, [])
    assert two_apis[0].metric("woolly_api_jobs_abandoned_total") == 0


def test_a_job_whose_client_is_gone_for_good_ends_after_the_grace_time(redis_url: str, worker: ScriptedWorker) -> None:
    worker.serve(Script(permits=threading.Semaphore(0)))
    hasty = httpx.Timeout(5, read=0.2)
    with running_api(redis_url, follower_grace_seconds=0.3, reaper=True) as api:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(api.url + "/v1/completions", json=TEXT, headers=KEY, timeout=hasty)
        wait_for(lambda: worker.cancelled)
    assert worker.cancelled == [worker.claims[0].job_id]


def test_a_lost_reply_does_not_destroy_the_job_of_a_key(
    api: RunningApi, http: httpx.Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller is told 503, a concurrent one has got the job by then. Without a key it would be cancelled."""
    submit = api.services.ledger.submit
    found: list[str] = []

    def reply_lost(*args: Any, **options: Any) -> None:
        found.append(submit(*args, **options).job_id)
        raise LedgerUnavailable("the reply was lost")

    with monkeypatch.context() as patched:
        patched.setattr(api.services.ledger, "submit", reply_lost)
        assert http.post("/v1/jobs", json=JOB, headers=KEY).status_code == 503
        assert http.post("/v1/completions", json=TEXT, headers={"Idempotency-Key": "2"}).status_code == 503
    again = http.post("/v1/jobs", json=JOB, headers=KEY)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json()["id"] == found[0]
    assert not api.services._background  # no cancel is on its way
    assert not worker.ledger.view(found[0]).cancel_requested
    # A completion whose caller never asks again does not run for nobody.
    assert look_twice(worker.ledger) == (found[1],)
    assert worker.ledger.view(found[0]).state == "queued"


def test_a_key_survives_a_restart_of_redis(tmp_path: Path) -> None:
    answers = []
    server = EmbeddedServer(tmp_path)
    with running_api(server.url, redis_timeout_seconds=0.5) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        with closing(connect(server.url)) as client:
            ScriptedWorker(Ledger(client)).announce()
        answers.append(http.post("/v1/jobs", json=JOB, headers=KEY))
        server.stop()
        assert http.post("/v1/jobs", json=JOB, headers=KEY).status_code == 503
        with EmbeddedServer(tmp_path, port=server.port):
            wait_for(lambda: http.get("/v1/models").status_code == 200)
            answers.append(http.post("/v1/jobs", json=JOB, headers=KEY))
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["Idempotency-Replayed"] == "true"


def test_a_key_expires_with_its_record(redis_url: str, worker: ScriptedWorker) -> None:
    with running_api(redis_url, retention_seconds=0.1) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        first = http.post("/v1/jobs", json=JOB, headers=KEY).json()["id"]
        http.post(f"/v1/jobs/{first}/cancel")
        wait_for(lambda: http.get(f"/v1/jobs/{first}").status_code == 404)
        wait_for(lambda: not worker.ledger.client.exists(keys.once("default", KEY["Idempotency-Key"])))
        again = http.post("/v1/jobs", json={**JOB, "priority": 1}, headers=KEY)
        assert again.status_code == 202
        assert "Idempotency-Replayed" not in again.headers


def test_the_client_hands_a_job_in_again_under_one_key(
    api: RunningApi, client: WoollyClient, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, lost = api.services.ledger.submit, []

    def first_reply_lost(*args: Any, **options: Any) -> Any:
        submitted = submit(*args, **options)
        if not lost:
            lost.append(submitted.job_id)
            raise LedgerUnavailable("the reply was lost")
        return submitted

    monkeypatch.setattr(api.services.ledger, "submit", first_reply_lost)
    request = JobRequest(model=MODEL, prompt="hello")
    assert client.submit(request).id == lost[0]
    assert client.submit(request).id != lost[0]  # another call, another key
    assert client.submit(request, idempotency_key="mine").id == client.submit(request, idempotency_key="mine").id
    assert worker.ledger.lane_counts(MODEL).queued == 3
    with pytest.raises(InvalidRequest, match="1 of 4 characters"):
        client.submit(request, idempotency_key="m\u00efne")
