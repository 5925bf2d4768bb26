"""What others write into Redis: pages for people and for orchestrators show the rest, and say what they left out."""

import httpx
import pytest
from harness import RunningApi
from scripted_worker import MODEL, N_CTX, ScriptedWorker

from woolly_worker.ledger import keys
from woolly_worker.ledger.versions import LEDGER_VERSION

JOB = {"model": MODEL, "prompt": "x"}


def test_a_bad_heartbeat_and_a_bad_card_hide_nobody(http: httpx.Client, worker: ScriptedWorker) -> None:
    redis = worker.ledger.client
    redis.hset(keys.MODELS, mapping={"bad": "no JSON", "worse": "[]"})
    redis.set(keys.worker("bad"), '{"worker_id": 7}')
    redis.zadd(keys.WORKERS, {"bad": 1, "x" * 10_000: 2, "*": 3})
    redis.hset(keys.lanes(MODEL), mapping={"all:queued": "many", "all:running": "9" * 40})
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == [MODEL]
    assert http.get("/readyz").json()["checks"]["workers"] == {"status": "ok", "ready": 1, "alive": 1}
    assert http.get("/api/v1/performance/stats").status_code == 200
    text = http.get("/metrics").text
    assert f'woolly_workers{{model="{MODEL}",state="ready"}} 1.0' in text
    assert 'woolly_foreign_entries_total{kind="heartbeat"}' in text
    assert 'woolly_foreign_entries_total{kind="model card"}' in text


def test_a_list_of_workers_that_is_none_refuses_no_job(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.ledger.client.set(keys.WORKERS, "hello")
    # More than the card says, so that the workers are asked now, whatever was known a moment ago.
    answer = http.post("/v1/jobs", json={**JOB, "sampling": {"max_tokens": N_CTX}})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_a_damaged_job_is_its_own_problem(http: httpx.Client, worker: ScriptedWorker) -> None:
    good, bad, worse = (http.post("/v1/jobs", json=JOB).json()["id"] for _ in range(3))
    redis = worker.ledger.client
    redis.hset(keys.job(bad), "attempts", "many")
    redis.set(keys.job(worse), "hello")
    redis.zadd(keys.OPEN_JOBS, {"*": 1, f"{good}:events": 1, "x" * 10_000: 1})
    assert [job["id"] for job in http.get("/v1/jobs").json()["jobs"]] == [good]
    answer = http.get(f"/v1/jobs/{bad}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert http.post(f"/v1/jobs/{bad}/cancel").json()["result"]["error"]["code"] == "internal_error"
    assert http.get(f"/v1/jobs/{bad}").json()["state"] == "failed"


def test_a_stream_with_foreign_entries_is_read_past(http: httpx.Client, worker: ScriptedWorker) -> None:
    script = worker.serve()
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    assert http.get(f"/v1/jobs/{job_id}?wait=10").json()["state"] == "succeeded"
    for entry in ({"hello": "world"}, {"e": "no JSON"}, {"e": '{"type":"token","seq":9,"token_id":1,"text":"no"}'}):
        worker.ledger.client.xadd(keys.events(job_id), entry)
    text = http.get(f"/v1/jobs/{job_id}/events").text
    assert text.count("event: token") == len(script.pieces)
    assert text.count("event: done") == 1


@pytest.mark.parametrize("number", [str(LEDGER_VERSION + 1), "0", "new", "9" * 30, ""])
def test_a_ledger_of_another_version_takes_no_jobs(
    api: RunningApi, http: httpx.Client, worker: ScriptedWorker, number: str
) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    worker.ledger.client.set(keys.LEDGER_VERSION, number)
    for path in ("/v1/jobs", "/v1/completions"):
        refused = http.post(path, json=JOB)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_version")
        assert refused.headers["Retry-After"] == "30"
        assert f"this program works with version {LEDGER_VERSION}" in refused.json()["error"]["message"]
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["redis"]["code"] == "ledger_version"
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"  # what is there can still be read
    worker.ledger.client.set(keys.LEDGER_VERSION, LEDGER_VERSION)
    assert http.post("/v1/jobs", json=JOB).status_code == 202
