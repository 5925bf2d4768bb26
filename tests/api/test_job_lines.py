"""A job that ends without a worker has its one line as well: in the log of whoever ended it."""

import time
from typing import Any

import httpx
import structlog
from harness import running_api, wait_for
from scripted_worker import MODEL, ScriptedWorker

from woolly_worker.contract.jobs import JobRequest

PROMPT = "the prompt that nobody may log"
JOB = {"model": MODEL, "prompt": PROMPT}


def lines(logs: list[Any], job_id: str) -> list[dict[str, Any]]:
    return [dict(line) for line in logs if line["event"] == "job" and line.get("job_id") == job_id]


def test_a_cancel_in_the_queue(http: httpx.Client, worker: ScriptedWorker) -> None:
    with structlog.testing.capture_logs() as logs:
        job_id = http.post("/v1/jobs", json=JOB).json()["id"]
        for _ in range(2):
            assert http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    (line,) = lines(logs, job_id)
    assert (line["state"], line["error"], line["completion_tokens"]) == ("cancelled", "cancelled", 0)
    assert line["total_seconds"] >= 0
    assert PROMPT not in str(logs)


def test_the_reaper_of_an_api(redis_url: str, worker: ScriptedWorker) -> None:
    with structlog.testing.capture_logs() as logs, running_api(redis_url, reaper=True):
        job_id = worker.ledger.submit(JobRequest(model=MODEL, prompt=PROMPT, deadline_seconds=0.05)).job_id
        wait_for(lambda: worker.ledger.view(job_id).finished_at)
        wait_for(lambda: lines(logs, job_id))
        time.sleep(0.1)
    (line,) = lines(logs, job_id)
    assert (line["state"], line["error"]) == ("expired", "deadline_exceeded")
