"""The clock of a worker's host jumps by an hour while jobs run: leases, deadlines and benchmarks go by Redis's."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from harness import running_api

from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.server import EmbeddedServer

SHIFTED_WORKER = Path(__file__).with_name("shifted_worker.py")


@pytest.mark.parametrize("shift", [3600, pytest.param(-3600, marks=pytest.mark.slow)])
def test_an_hour(server: EmbeddedServer, start_workers, shift: int) -> None:
    workers = start_workers(1, program=SHIFTED_WORKER, SHIFT_SECONDS=str(shift))
    (process,) = workers.processes
    undisturbed = workers.result(workers.submit())
    job_ids = [workers.submit() for _ in range(2)]
    sampling = SamplingParams(max_tokens=80, temperature=0.8, seed=11, ignore_eos=True)
    request = JobRequest(model="tiny", prompt="Once upon a time", sampling=sampling, deadline_seconds=60)
    in_time = workers.ledger.submit(request)
    assert in_time.bell is not None
    workers.app.send_task(**in_time.bell.send_task_options())
    for job_id in (*job_ids, in_time.job_id):
        workers.streaming(job_id)
    os.kill(process.pid, signal.SIGUSR1)
    for job_id in job_ids:
        result = workers.result(job_id)
        assert result.text == undisturbed.text
        assert (result.metrics.attempts, result.metrics.crashes) == (1, 0)
        assert 0 < (result.metrics.total_seconds or 0) < 60
    assert workers.ended(in_time.job_id).state is JobState.SUCCEEDED

    # Asked, taken and measured by clocks that differ by the hour; and a deadline that is none of the host's business.
    with running_api(server.url) as api, httpx.Client(base_url=api.url, timeout=60) as http:
        call = {"test_type": "memory_allocation", "iterations": 1}
        assert http.post("/api/v1/performance/benchmark", json=call).status_code == 200
        sampling = {"max_tokens": 400, "ignore_eos": True}  # eight seconds
        body = {"model": "tiny", "prompt": "x", "deadline_seconds": 0.5, "sampling": sampling}
        late = http.post("/v1/jobs", json=body).json()
        assert http.get(f"/v1/jobs/{late['id']}?wait=20").json()["state"] == "expired"
    for _ in range(3):  # reapers of other hosts find nothing to heal
        assert workers.ledger.reap().n_jobs == 0
        time.sleep(0.05)
    assert process.poll() is None
