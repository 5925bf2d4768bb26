"""/v1/jobs: submit, look, wait, list, cancel."""

import json
import threading
import time
from typing import Any

import httpx
import pytest
from harness import RunningApi, running_api, wait_for
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_worker.contract.states import JobState

PROMPT = "the prompt that nobody else may see"
JOB = {"model": MODEL, "prompt": PROMPT, "sampling": {"max_tokens": 8}, "metadata": {"for": "test"}}


def test_a_job_from_submit_to_result(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()

    submitted = http.post("/v1/jobs", json=JOB)
    assert submitted.status_code == 202
    job = submitted.json()
    assert submitted.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["metadata"] == {"for": "test"}

    ended = http.get(submitted.headers["Location"], params={"wait": 10}).json()
    assert ended["state"] == "succeeded"
    assert ended["result"]["text"] == " Once upon a time"
    assert ended["result"]["usage"]["completion_tokens"] == 4
    assert ended["result"]["metrics"]["decode_tokens_per_second"] == 25.0
    # The worker got what the caller sent, through a message that holds the id alone.
    (claim,) = worker.claims
    assert claim.request.prompt == PROMPT
    assert claim.request.sampling.max_tokens == 8
    assert worker.bells == [job["id"]]


def test_the_prompt_is_in_no_answer_and_no_bell(http: httpx.Client, worker: ScriptedWorker) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    bells: list[str] = []

    def rung() -> bool:
        for key in worker.ledger.client.scan_iter(match="m.*"):
            bells.extend(worker.ledger.client.lrange(key, 0, -1))
        return bool(bells)

    wait_for(rung)
    assert PROMPT not in "".join(bells)
    assert job_id in "".join(bells)
    assert PROMPT not in http.get(f"/v1/jobs/{job_id}").text


def test_a_timeline_is_told_when_it_is_asked_for(http: httpx.Client, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(permits=threading.Semaphore(0)))
    assert script.permits is not None
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    wait_for(lambda: worker.claims)

    def told() -> dict[str, Any]:
        timeline: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"timeline": True}).json()["timeline"]
        return timeline

    assert [part["kind"] for part in told()["parts"]] == ["queued", "running"]
    assert told()["attempts"][0]["end"] is None
    script.permits.release(len(script.pieces))
    ended = http.get(f"/v1/jobs/{job_id}", params={"wait": 10, "timeline": True}).json()
    assert ended["state"] == "succeeded"
    assert ended["links"]["self"] == f"/v1/jobs/{job_id}"
    timeline = ended["timeline"]
    assert sum(part["seconds"] for part in timeline["parts"]) == pytest.approx(timeline["seconds"])
    assert timeline["seconds"] == pytest.approx(ended["finished_at"] - ended["created_at"], abs=1e-3)
    assert [attempt["end"] for attempt in timeline["attempts"]] == ["ended"]
    assert told() == timeline

    assert "timeline" not in http.get(f"/v1/jobs/{job_id}").json()
    assert "timeline" not in http.get("/v1/jobs").json()["jobs"][0]
    assert http.get("/v1/jobs/never", params={"timeline": True}).status_code == 404
    parameters = http.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}"]["get"]["parameters"]
    assert "timeline" in [parameter["name"] for parameter in parameters]


def test_a_wait_ends_after_its_time_with_the_state_it_has_then(http: httpx.Client, worker: ScriptedWorker) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    started = time.monotonic()
    view = http.get(f"/v1/jobs/{job_id}", params={"wait": 0.4}).json()
    assert view["state"] == "queued"
    assert view["result"] is None
    assert 0.35 < time.monotonic() - started < 3


def test_a_wait_ends_when_the_job_does(http: httpx.Client, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(permits=threading.Semaphore(0)))
    assert script.permits is not None
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    threading.Timer(0.3, script.permits.release, (len(script.pieces),)).start()
    started = time.monotonic()
    view = http.get(f"/v1/jobs/{job_id}", params={"wait": 15}).json()
    assert view["state"] == "succeeded"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon"])
def test_a_wait_that_is_no_time_is_refused(http: httpx.Client, wait: str) -> None:
    refused = http.get("/v1/jobs/0", params={"wait": wait})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "wait"


def test_unknown_jobs(http: httpx.Client) -> None:
    for method, path in [
        ("GET", "/v1/jobs/nope"),
        ("GET", "/v1/jobs/nope/events"),
        ("POST", "/v1/jobs/nope/cancel"),
    ]:
        answer = http.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "job_not_found"


def test_cancel_a_waiting_job(http: httpx.Client, worker: ScriptedWorker) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    cancelled = http.post(f"/v1/jobs/{job_id}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["state"] == "cancelled"
    assert cancelled.json()["result"]["error"]["code"] == "cancelled"


def test_cancel_a_running_job(http: httpx.Client, worker: ScriptedWorker) -> None:
    script = worker.serve(Script(permits=threading.Semaphore(2)))
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["last_seq"] == 2)
    assert http.post(f"/v1/jobs/{job_id}/cancel").json()["cancel_requested"]
    view = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
    assert view["state"] == "cancelled"
    assert view["result"]["text"] == "".join(script.pieces[:2])


def test_cancelling_what_has_ended_changes_nothing(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    ended = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
    assert http.post(f"/v1/jobs/{job_id}/cancel").json() == ended


def test_the_list_is_newest_first_and_filters(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.announce("other", alive=False)
    first = http.post("/v1/jobs", json=JOB).json()["id"]
    second = http.post("/v1/jobs", json={**JOB, "model": "other"}).json()["id"]
    third = http.post("/v1/jobs", json=JOB).json()["id"]
    http.post(f"/v1/jobs/{third}/cancel")

    def listed(**query: object) -> list[str]:
        return [job["id"] for job in http.get("/v1/jobs", params=query).json()["jobs"]]

    assert listed() == [third, second, first]
    assert listed(limit=2) == [third, second]
    assert listed(state="queued") == [second, first]
    assert listed(state="cancelled") == [third]
    assert listed(model="other") == [second]
    assert http.get("/v1/jobs", params={"limit": 0}).status_code == 400
    assert http.get("/v1/jobs", params={"state": "asleep"}).status_code == 400


def test_an_unknown_model_is_told_apart_from_a_sleeping_one(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.announce("sleeping", alive=False)
    refused = http.post("/v1/jobs", json={**JOB, "model": "gpt-9"})
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert error["details"]["available_models"] == ["sleeping", MODEL]
    assert http.post("/v1/jobs", json={**JOB, "model": "sleeping"}).status_code == 202


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"promt": "x"}, "promt", ["promt", "unknown parameter"]),
        ({"sampling": {"temprature": 1}}, "sampling.temprature", ["unknown parameter"]),
        ({"sampling": {"top_p": 1.5}}, "sampling.top_p", ["1", "1.5"]),
        ({"sampling": {"max_tokens": 0}}, "sampling.max_tokens", ["1", "0"]),
        ({"priority": 10}, "priority", ["9", "10"]),
        ({"prompt": ""}, "prompt", ["prompt: is empty"]),
        ({"prompt": []}, "prompt", ["prompt: is empty"]),
        ({"prompt": None, "messages": []}, "messages", ["messages: is empty"]),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt", ["exactly one of 'prompt' and 'messages'"]),
        ({"prompt": None}, "prompt", ["exactly one of"]),
        ({"prompt": {"text": "x"}}, "prompt", ["prompt: must be text or a list of token ids"]),
        ({"prompt": 5}, "prompt", ["prompt: must be text or a list of token ids", "5"]),
        ({"prompt": [7, "x"]}, "prompt.1", ["integer"]),
        ({"prompt": [7, -1]}, "prompt.1", ["-1"]),
        # No type is taken for another.
        ({"sampling": {"max_tokens": "5"}}, "sampling.max_tokens", ["integer"]),
        ({"sampling": {"max_tokens": 5.0}}, "sampling.max_tokens", ["integer"]),
        ({"sampling": {"temperature": "1"}}, "sampling.temperature", ["number"]),
        ({"sampling": {"ignore_eos": "yes"}}, "sampling.ignore_eos", ["boolean"]),
        ({"sampling": {"ignore_eos": 1}}, "sampling.ignore_eos", ["boolean"]),
        ({"sampling": {"seed": True}}, "sampling.seed", ["integer"]),
        ({"sampling": {"logit_bias": {"5": "1"}}}, "sampling.logit_bias.5", ["number"]),
        ({"prompt": ["1", "2"]}, "prompt.0", ["integer"]),
        ({"prompt": [True]}, "prompt.0", ["integer"]),
        ({"priority": "3"}, "priority", ["integer"]),
        ({"deadline_seconds": "3"}, "deadline_seconds", ["number"]),
        ({"metadata": {"k": 1}}, "metadata.k", ["string"]),
        ({"deadline_seconds": -1}, "deadline_seconds", ["0", "-1"]),
        ({"deadline_seconds": 1e300}, "deadline_seconds", ["31536000", "1e+300"]),
    ],
)
def test_a_wrong_field_is_refused_by_name(
    http: httpx.Client, worker: ScriptedWorker, change: dict[str, object], param: str | None, words: list[str]
) -> None:
    refused = http.post("/v1/jobs", json={**JOB, **change})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == param
    assert error["code"] == "invalid_request"
    for word in words:
        assert word in error["message"]
    assert PROMPT not in refused.text


def test_whole_numbers_do_for_any_and_lists_for_all(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()
    sampling = {"temperature": 0, "top_p": 1, "stop": ["x"], "logit_bias": {"5": 1, "6": -0.5}}
    changes = {"prompt": [1, 2], "deadline_seconds": 60, "sampling": sampling}
    job_id = http.post("/v1/jobs", json={**JOB, **changes}).json()["id"]
    http.get(f"/v1/jobs/{job_id}", params={"wait": 10})
    request = worker.claims[0].request
    assert (request.prompt, request.deadline_seconds) == ((1, 2), 60)
    assert request.sampling.logit_bias == {5: 1.0, 6: -0.5}
    assert request.sampling.stop == ("x",)


def test_a_body_that_is_no_json(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    refused = http.post("/v1/jobs", content=f'{{"prompt": "{PROMPT}",,}}', headers=headers)
    assert refused.status_code == 400
    assert "not JSON" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] is None
    assert PROMPT not in refused.text
    for content in ("", "null", "[]", "5"):
        refused = http.post("/v1/jobs", content=content, headers=headers)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] is None
        assert "the body must be a JSON object" in refused.json()["error"]["message"]
    form = http.post(
        "/v1/jobs", content='{"model": "x"}', headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert form.status_code == 400
    assert "application/json" in form.json()["error"]["message"]


def test_every_job_gets_its_bell_and_the_api_counts_them(
    api: RunningApi, http: httpx.Client, worker: ScriptedWorker
) -> None:
    worker.serve()
    ids = [http.post("/v1/jobs", json={**JOB, "priority": p, "tenant": f"t{p}"}).json()["id"] for p in range(10)]
    for job_id in ids:
        assert http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["state"] == JobState.SUCCEEDED
    assert sorted(worker.bells) == sorted(ids)
    assert api.metric("woolly_api_bells_total", outcome="rung") == 10
    assert api.metric("woolly_api_jobs_submitted_total", model=MODEL) == 10


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ['"logit_bias": {"1": %s}', '"temperature": %s'])
def test_numbers_that_are_none_are_refused(http: httpx.Client, worker: ScriptedWorker, place: str, number: str) -> None:
    """They are not JSON, but Python reads them."""
    body = f'{{"model": "{MODEL}", "prompt": "x", "sampling": {{{place % number}}}}}'
    refused = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("sampling.")


def test_limits_are_those_of_the_settings(redis_url: str, worker: ScriptedWorker) -> None:
    with (
        running_api(redis_url, max_queued_jobs=2, max_wait_seconds=0.2) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        first = http.post("/v1/jobs", json=JOB).json()["id"]
        http.post("/v1/jobs", json=JOB)
        refused = http.post("/v1/jobs", json=JOB)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"]
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.json()["error"]["details"] == {"queued": 2, "limit": 2}
        started = time.monotonic()
        assert http.get(f"/v1/jobs/{first}", params={"wait": 3600}).json()["state"] == "queued"
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/jobs", {"prompt": "\ud800"}, "prompt"),
        ("/v1/jobs", {"metadata": {"k": "\ud800"}}, "metadata.k"),
        ("/v1/jobs", {"metadata": {"\ud800": "v"}}, "metadata.���"),
        ("/v1/jobs", {"tenant": "\ud800"}, "tenant"),
        ("/v1/jobs", {"model": "\ud800"}, "model"),
        ("/v1/jobs", {"sampling": {"stop": ["\ud800"]}}, "sampling.stop.0"),
        ("/v1/jobs", {"\ud800": 1}, None),
        ("/v1/jobs", {"messages": [{"role": "user", "content": "\udc00"}]}, "messages.0.content"),
        ("/v1/jobs", {"messages": [{"role": "user", "content": "", "name": "\udc00"}]}, "messages.0.name"),
        ("/v1/jobs", {"messages": [{"role": "user", "content": "", "x": [{"y": "\udc00"}]}]}, "messages.0.x"),
        ("/v1/jobs", {"messages": [{"role": "user", "content": "", "\udc00": 1}]}, "messages.0"),
        ("/v1/completions", {"prompt": "\ud800"}, "prompt"),
        ("/v1/completions", {"prompt": "x", "metadata": {"k": "\ud800"}}, "metadata.k"),
        ("/v1/completions", {"prompt": "x", "user": "\ud800"}, "user"),
        ("/v1/completions", {"prompt": "x", "\ud800": 1}, None),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\udc00"}]}, "messages.0.content"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udc00"}]}]},
            "messages.0.content",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "", "name": "\udc00"}]},
            "messages.0.name",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "tool", "content": "", "tool_call_id": "\udc00"}]},
            "messages.0.tool_call_id",
        ),
    ],
)
def test_a_lone_surrogate_is_no_text(
    http: httpx.Client, worker: ScriptedWorker, path: str, change: dict[str, object], param: str | None
) -> None:
    """JSON can escape half of a surrogate pair; neither UTF-8 nor a model knows it."""
    start = {"prompt": "x"} if path == "/v1/jobs" and "messages" not in change else {}
    body = json.dumps({"model": MODEL, **start, **change})
    refused = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert "surrogate" in refused.json()["error"]["message"]
