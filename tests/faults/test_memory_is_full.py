"""Redis at its maxmemory: no new jobs, and those that run finish."""

import threading

import httpx
import pytest
from harness import running_api
from scripted import eventually
from scripted_worker import MODEL, Script, ScriptedWorker

from woolly_worker.contract.errors import LedgerFull
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer


def used_bytes(ledger: Ledger) -> int:
    return int(ledger.client.info("memory")["used_memory"])


def test_new_jobs_leave_the_last_tenth_to_others(server: EmbeddedServer) -> None:
    with connect(server.url) as client:
        ledger = Ledger(client)
        worker = ScriptedWorker(ledger)
        worker.announce()
        permits = threading.Semaphore(2)
        script = worker.serve(Script(permits=permits))
        with running_api(server.url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
            try:
                body = {"model": MODEL, "prompt": "x"}
                accepted = http.post("/v1/jobs", json=body)
                assert accepted.status_code == 202
                job_id = accepted.json()["id"]
                eventually(lambda: ledger.view(job_id).last_seq == 2)
                client.config_set("maxmemory", int(used_bytes(ledger) / 0.95))
                answer = http.post("/v1/jobs", json=body)
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) >= 5
                error = answer.json()["error"]
                assert error["code"] == "ledger_full"
                assert error["details"]["used_bytes"] > error["details"]["limit_bytes"] > 0
                # What is accepted goes on, at the limit and above it.
                client.config_set("maxmemory", int(used_bytes(ledger) / 2))
                permits.release(10)
                ended = http.get(f"/v1/jobs/{job_id}?wait=10").json()
                assert (ended["state"], ended["result"]["text"]) == ("succeeded", script.text)
                client.config_set("maxmemory", 0)
                assert http.post("/v1/jobs", json=body).status_code == 202
            finally:
                worker.stop()


def test_accepted_jobs_finish_running_or_not(start_workers) -> None:
    workers = start_workers()
    ledger: Ledger = workers.ledger
    running = [workers.submit(seed=seed) for seed in range(4)]
    waiting = [workers.submit(seed=seed) for seed in range(2)]
    for job_id in running:
        workers.streaming(job_id)
    workers.client.config_set("maxmemory", int(used_bytes(ledger) / 2))
    with pytest.raises(LedgerFull, match=r"uses \d+ bytes of memory, new jobs are taken up to \d+"):
        ledger.submit(JobRequest(model="tiny", prompt="x"))
    for job_id in running:
        assert workers.result(job_id).metrics.attempts == 1
    # A claim needs no more memory than the reserve: those that waited run as well, or end when somebody wants that.
    assert ledger.cancel(waiting[0]) in (JobState.CANCELLED, JobState.RUNNING)
    result = workers.result(waiting[1])
    assert (result.metrics.attempts, result.metrics.crashes) == (1, 0)
    assert workers.ended(waiting[0]).state is JobState.CANCELLED
    (process,) = workers.processes
    assert process.poll() is None
    workers.client.config_set("maxmemory", 0)
    eventually(lambda: workers.registry.workers())
    assert "Unrecoverable" not in workers.log_text()
