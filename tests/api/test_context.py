"""A job that no worker of its model could hold, or understand, is refused at submit."""

from typing import Any

import httpx
import pytest
from scripted_worker import MODEL, N_CTX, Script, ScriptedWorker

from woolly_worker.contract.context import check_fits
from woolly_worker.contract.errors import ContextOverflow
from woolly_worker.contract.jobs import ErrorInfo

CHAT = {"messages": [{"role": "user", "content": "Tell me more."}]}


def job(max_tokens: int, **content: Any) -> dict[str, Any]:
    return {"model": MODEL, "sampling": {"max_tokens": max_tokens}, **(content or {"prompt": "Once"})}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/jobs", job(N_CTX), "sampling.max_tokens"),
        ("/v1/completions", {"model": MODEL, "prompt": "Once", "max_tokens": N_CTX}, "max_tokens"),
        ("/v1/completions", {"model": MODEL, "prompt": "Once", "max_tokens": N_CTX, "stream": True}, "max_tokens"),
        ("/v1/chat/completions", {"model": MODEL, **CHAT, "max_completion_tokens": N_CTX}, "max_completion_tokens"),
        ("/v1/chat/completions", {"model": MODEL, **CHAT, "max_tokens": N_CTX}, "max_tokens"),
    ],
)
def test_more_than_any_worker_holds(
    http: httpx.Client, worker: ScriptedWorker, path: str, body: dict[str, Any], param: str
) -> None:
    refused = http.post(path, json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["message"] == "max_tokens is 512, the context holds 512 for prompt and completion"
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_token_ids_are_counted(http: httpx.Client, worker: ScriptedWorker) -> None:
    refused = http.post("/v1/jobs", json=job(500, prompt=[1] * 13))
    said = "the prompt has 13 tokens and max_tokens is 500, the context holds 512 for prompt and completion"
    assert refused.json()["error"]["message"] == said
    assert http.post("/v1/jobs", json=job(499, prompt=[1] * 13)).status_code == 202


def test_the_largest_worker_decides(http: httpx.Client, worker: ScriptedWorker) -> None:
    # Given a small one that told last, and a large one
    worker.beat(worker_id="large", n_ctx=4096)
    # Then
    assert http.post("/v1/jobs", json=job(4000)).status_code == 202
    assert "holds 4,096" in http.post("/v1/jobs", json=job(4096)).json()["error"]["message"]


def test_what_nobody_serves_now_waits_for_whoever_comes(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.registry.leave(f"worker-{MODEL}")
    assert http.post("/v1/jobs", json=job(100_000)).status_code == 202


def test_a_job_that_was_accepted_once_is_answered_with_again(http: httpx.Client, worker: ScriptedWorker) -> None:
    # Given one of the time when a larger worker was there
    worker.beat(n_ctx=4096)
    keyed = {"Idempotency-Key": "one"}
    first = http.post("/v1/jobs", json=job(2000), headers=keyed)
    worker.beat(n_ctx=N_CTX)
    # Then it is found under its key, and no other is taken
    again = http.post("/v1/jobs", json=job(2000), headers=keyed)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert http.post("/v1/jobs", json=job(2000), headers={"Idempotency-Key": "two"}).status_code == 400


def test_one_token_is_one_token() -> None:
    with pytest.raises(ContextOverflow, match=r"the prompt has 1 token and max_tokens is 9, the context holds 9 for"):
        check_fits(9, n_prompt=1, max_tokens=9)
    with pytest.raises(ContextOverflow, match=r"the prompt has 2 tokens, the context holds 2 for"):
        check_fits(2, n_prompt=2, max_tokens=None)
    check_fits(10, n_prompt=1, max_tokens=9)


def test_a_context_of_one_token_holds_nothing() -> None:
    with pytest.raises(ContextOverflow, match=r"^a job has two tokens at least, the context holds 1 for prompt and c"):
        check_fits(1, n_prompt=None, max_tokens=None)


def test_an_error_of_the_engine_names_the_field_of_each_surface(http: httpx.Client, worker: ScriptedWorker) -> None:
    error = ErrorInfo.of(ContextOverflow("the prompt has 600 tokens", param="sampling.max_tokens"))
    worker.serve(Script(pieces=(), error=error))
    answer = http.post("/v1/chat/completions", json={"model": MODEL, **CHAT, "max_completion_tokens": 9})
    assert answer.json()["error"]["param"] == "max_completion_tokens"
    answer = http.post("/v1/completions", json={"model": MODEL, "prompt": "Once", "max_tokens": 9})
    assert answer.json()["error"]["param"] == "max_tokens"
    jobs = http.get("/v1/jobs").json()["jobs"]
    assert [job["result"]["error"]["param"] for job in jobs] == ["sampling.max_tokens"] * 2


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions"])
def test_a_chat_with_a_model_that_has_no_template_for_it(http: httpx.Client, worker: ScriptedWorker, path: str) -> None:
    worker.announce(chat=False)
    refused = http.post(path, json={"model": MODEL, **CHAT})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages"
    assert "chat template" in refused.json()["error"]["message"]
    assert http.get("/v1/jobs").json()["jobs"] == []
    assert http.post("/v1/jobs", json={"model": MODEL, "prompt": "Once"}).status_code == 202
