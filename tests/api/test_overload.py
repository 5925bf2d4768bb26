"""A long queue: 429 with a computed Retry-After, and what a waiting job is told."""

import time
from typing import Any, cast

import httpx
import pytest
from harness import running_api, wait_for
from scripted_worker import MODEL, ScriptedWorker

from woolly_api.client import WoollyClient
from woolly_api.forecast import LONGEST_RETRY_SECONDS, UNKNOWN_RETRY_SECONDS
from woolly_worker.contract.errors import QueueFull
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger import keys

COST = 100
JOB = {"model": MODEL, "prompt": [1], "sampling": {"max_tokens": COST - 1}}


def measured(worker: ScriptedWorker, tokens_per_second: float) -> None:
    """As if jobs had ended at this speed while others waited."""
    fields = {"drain:tokens": 10 * tokens_per_second, "drain:ms": 10_000}
    worker.ledger.client.hset(keys.lanes(MODEL), mapping=cast(Any, fields))


def test_a_backlog_of_too_many_tokens(redis_url: str, worker: ScriptedWorker) -> None:
    with running_api(redis_url, max_queued_tokens=250) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        assert [http.post("/v1/jobs", json=JOB).status_code for _ in range(2)] == [202, 202]
        for path in ("/v1/jobs", "/v1/completions"):
            body = JOB if path == "/v1/jobs" else {"model": MODEL, "prompt": [1], "max_tokens": COST - 1}
            refused = http.post(path, json=body)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["details"] == {"queued_tokens": 200, "job_tokens": 100, "limit": 250}
        assert f'woolly_queued_tokens{{model="{MODEL}"}} 200.0' in http.get("/metrics").text


@pytest.mark.parametrize("limits", [{"max_queued_jobs": 5}, {"max_queued_tokens": 5 * COST}])
def test_retry_after_is_computed_from_the_measured_speed(
    redis_url: str, worker: ScriptedWorker, limits: dict[str, int]
) -> None:
    with running_api(redis_url, **limits) as api, httpx.Client(base_url=api.url, timeout=20) as http:

        def retry_after() -> int:
            refused = http.post("/v1/jobs", json=JOB)
            assert refused.status_code == 429
            return int(refused.headers["Retry-After"])

        for _ in range(5):
            assert http.post("/v1/jobs", json=JOB).status_code == 202
        assert retry_after() == UNKNOWN_RETRY_SECONDS  # nothing has been measured
        measured(worker, 4.0)
        assert retry_after() == COST / 4
        measured(worker, 1000.0)
        assert retry_after() == 1
        measured(worker, 0.001)
        assert retry_after() == LONGEST_RETRY_SECONDS
    with running_api(redis_url, **limits) as api, WoollyClient(api.url) as client:
        measured(worker, 4.0)
        with pytest.raises(QueueFull) as caught:
            client.submit(JobRequest.model_validate(JOB))
        assert caught.value.retry_after_seconds == COST / 4
        worker.registry.leave(f"worker-{MODEL}")
    with running_api(redis_url, **limits) as api, WoollyClient(api.url) as client:
        with pytest.raises(QueueFull) as caught:  # nobody drains it
            client.submit(JobRequest.model_validate(JOB))
        assert caught.value.retry_after_seconds == UNKNOWN_RETRY_SECONDS


def test_a_waiting_job_is_told_its_place_and_when_it_may_start(redis_url: str, worker: ScriptedWorker) -> None:
    worker.beat(slots=1, generated_tokens_total=400, prompt_tokens_total=100, busy_seconds_total=10.0)
    with running_api(redis_url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        jobs = [http.post("/v1/jobs", json=JOB).json() for _ in range(4)]
        assert [job["queue_position"] for job in jobs] == [0, 1, 2, 3]
        # The slot is free; behind it, a job takes two seconds by the heartbeat.
        assert [job["estimated_start_seconds"] for job in jobs] == [0.0, 2.0, 4.0, 6.0]
        urgent = http.post("/v1/jobs", json={**JOB, "priority": 0}).json()
        assert urgent["queue_position"] == 0
        last = http.get(f"/v1/jobs/{jobs[3]['id']}").json()
        assert (last["queue_position"], last["estimated_start_seconds"]) == (4, 8.0)
        measured(worker, 10.0)
        listed = {job["id"]: job for job in http.get("/v1/jobs").json()["jobs"]}
        assert listed[jobs[3]["id"]]["estimated_start_seconds"] == 40.0
        worker.serve()
        ended = http.get(f"/v1/jobs/{jobs[3]['id']}", params={"wait": 10}).json()
        assert ended["state"] == "succeeded"
        assert ended["queue_position"] is ended["estimated_start_seconds"] is None


def test_without_a_worker_there_is_a_place_and_no_time(redis_url: str, worker: ScriptedWorker) -> None:
    worker.registry.leave(f"worker-{MODEL}")
    measured(worker, 10.0)
    with running_api(redis_url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        job = http.post("/v1/jobs", json=JOB).json()
        assert (job["queue_position"], job["estimated_start_seconds"]) == (0, None)
        worker.beat()  # one that says nothing about its slots has at least one
        wait_for(lambda: http.get(f"/v1/jobs/{job['id']}").json()["estimated_start_seconds"] == 0.0)


def test_a_poll_of_a_long_queue_is_cheap(redis_url: str, worker: ScriptedWorker) -> None:
    """Commands are counted, not milliseconds: a poll asks for as many as ever, however many jobs wait."""
    with running_api(redis_url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        job_id = http.post("/v1/jobs", json=JOB).json()["id"]

        def commands_of_a_poll() -> int:
            before = worker.ledger.client.info("stats")["total_commands_processed"]
            assert http.get(f"/v1/jobs/{job_id}").json()["queue_position"] is not None
            return int(worker.ledger.client.info("stats")["total_commands_processed"] - before)

        http.get(f"/v1/jobs/{job_id}")  # the heartbeats are read
        few = commands_of_a_poll()
        request = JobRequest(model=MODEL, prompt=(1,), sampling=SamplingParams(max_tokens=COST))
        for i in range(500):
            worker.ledger.submit(request.model_copy(update={"tenant": f"t{i % 5}"}))
        time.sleep(1.1)  # they are read anew
        http.get(f"/v1/jobs/{job_id}")
        assert commands_of_a_poll() <= few + 10  # a look at the lane of each tenant


def test_what_has_run_waits_no_longer(redis_url: str, worker: ScriptedWorker) -> None:
    with running_api(redis_url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        ids = [http.post("/v1/jobs", json=JOB).json()["id"] for _ in range(20)]
        assert worker.ledger.lane_counts(MODEL).queued_tokens == 20 * COST
        worker.serve()
        for job_id in ids:
            assert http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["state"] == "succeeded"
        assert worker.ledger.lane_counts(MODEL).queued_tokens == 0
