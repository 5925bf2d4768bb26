"""What requests leave in the log: one line each, and no prompt."""

import logging

import httpx
import pytest
from harness import RunningApi, wait_for
from scripted_worker import MODEL, ScriptedWorker

PROMPT = "the prompt that nobody may read in a log"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "event='request'" in record.getMessage()]


def test_one_line_per_request_and_no_prompt(
    http: httpx.Client, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker.serve()
    headers = {"X-Request-Id": "trace-1"}
    http.post("/v1/completions", json={"model": MODEL, "prompt": PROMPT}, headers=headers)
    http.post("/v1/completions?q=" + PROMPT, json={"model": MODEL, "prompt": PROMPT}, headers=headers)
    http.post("/v1/completions", json={"model": MODEL, "prompt": PROMPT, "oops": PROMPT}, headers=headers)
    http.post("/v1/chat/completions", json={"model": MODEL, "messages": PROMPT}, headers=headers)
    with http.stream(
        "POST", "/v1/completions", json={"model": MODEL, "prompt": PROMPT, "stream": True}, headers=headers
    ) as response:
        response.read()
    wait_for(lambda: len(lines(caplog)) == 5)
    served, queried, unknown, wrong, streamed = lines(caplog)
    for line in (served, queried, unknown, wrong, streamed):
        assert "request_id='trace-1'" in line
        assert "method='POST'" in line
    assert "status=200" in served
    assert f"job_id='{worker.claims[0].job_id}'" in served
    assert "status=400" in queried
    assert "status=400" in unknown
    assert "status=400" in wrong
    assert "stream=True" in streamed
    # Of all loggers, ours and those of the libraries.
    assert PROMPT not in caplog.text
    assert "Once" not in caplog.text


def test_probes_are_not_worth_a_line(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for path in ("/healthz", "/readyz", "/metrics"):
        http.get(path)
    http.get("/v1/models")
    wait_for(lambda: lines(caplog))
    assert len(lines(caplog)) == 1


def test_a_bug_is_told_to_us_in_full_and_to_the_client_by_a_code(
    api: RunningApi, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("secret detail")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(api.services.reader, "models", broken)
    answer = http.get("/v1/models", headers={"X-Request-Id": "trace-2"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-Id"] == "trace-2"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    wait_for(lambda: lines(caplog))
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "trace-2" in told.getMessage()
    assert "secret detail" in told.getMessage()
