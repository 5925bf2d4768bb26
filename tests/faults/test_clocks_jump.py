"""The clock of a host jumps by an hour while jobs run. A worker's leases, deadlines and benchmarks go by Redis's clock,
as do the records of an API, whose patience goes by a clock that does not jump."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from cluster import Process
from harness import running_api
from scripted import eventually
from scripted_worker import MODEL, Script, ScriptedWorker
from worker_processes import TREE

from woolly_worker.contract.idempotency import HEADER
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer

SHIFTED_WORKER = Path(__file__).with_name("shifted_worker.py")
SHIFTED_WOOLLY = (sys.executable, str(Path(__file__).with_name("shifted_woolly.py")))


@pytest.mark.parametrize("shift", [3600, pytest.param(-3600, marks=pytest.mark.slow)])
def test_of_a_worker(server: EmbeddedServer, start_workers, shift: int) -> None:
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


@pytest.fixture
def worker(server: EmbeddedServer) -> Iterator[ScriptedWorker]:
    with closing(connect(server.url)) as client:
        worker = ScriptedWorker(Ledger(client))
        worker.announce()
        try:
            yield worker
        finally:
            worker.stop()


class Following(threading.Thread):
    """The lines of a stream as they come."""

    def __init__(self, http: httpx.Client, method: str, path: str, key: str = "", body: object = None) -> None:
        super().__init__(daemon=True)
        self._request = http.build_request(method, path, json=body, headers={HEADER: key} if key else {})
        self._http = http
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        response = self._http.send(self._request, stream=True)
        with closing(response):
            assert response.status_code == 200
            self.lines.extend(response.iter_lines())


@pytest.mark.parametrize("shift", [3600, -3600])
def test_of_an_api(server: EmbeddedServer, worker: ScriptedWorker, shift: int) -> None:
    api = Process(
        *("api", "--port", "0"),
        program=SHIFTED_WOOLLY,
        PYTHONPATH=str(TREE),
        SHIFT_SECONDS=str(shift),
        WOOLLY_REDIS_URL=server.url,
        WOOLLY_API_FOLLOWER_GRACE_SECONDS="1",
        WOOLLY_API_HEARTBEAT_SECONDS="0.2",
        WOOLLY_API_FIRST_BYTE_SECONDS="0.2",
        WOOLLY_API_MAX_QUEUED_JOBS="4",
    )
    ledger, job = worker.ledger, {"model": MODEL, "prompt": "x"}
    completion = {**job, "stream": True}
    try:
        url = api.wait_for_line(r"(http://127\.0\.0\.1:\d+)")[1]
        with httpx.Client(base_url=url, timeout=60) as http:

            def submit(key: str) -> httpx.Response:
                return http.post("/v1/jobs", json=job, headers={HEADER: key})

            before = submit("before").json()
            stream = Following(http, "GET", f"/v1/jobs/{before['id']}/events")
            waiting = Following(http, "GET", f"/v1/jobs/{before['id']}?wait=50")
            followed = Following(http, "POST", "/v1/completions", "followed", completion)
            eventually(lambda: stream.lines and followed.lines)
            n_heard, n_jobs = len(stream.lines), ledger.lane_counts(MODEL).queued
            os.kill(api.pid, signal.SIGUSR1)
            eventually(lambda: abs(http.get("/missing").json()["error"]["timestamp"] - time.time()) > 3000)

            # Heartbeats come, and nobody is taken for somebody who left, or told that the time is over.
            eventually(lambda: stream.lines[n_heard:].count(": heartbeat") >= 10)
            assert waiting.is_alive()
            assert followed.is_alive()
            assert ledger.lane_counts(MODEL).queued == n_jobs == 2
            # A key leads to the job from before, and a record says when it was made by Redis's clock.
            assert submit("before").json()["id"] == before["id"]
            after = submit("after").json()
            assert abs(after["created_at"] - before["created_at"]) < 60
            assert http.get(f"/v1/jobs/{after['id']}?wait=0.2").json()["state"] == "queued"
            # A client who leaves is missed after the grace, and not before; the others wait on.
            with http.stream("POST", "/v1/completions", json=completion, headers={HEADER: "left"}) as left:
                left_id = left.headers["X-Woolly-Job-Id"]
            assert ledger.view(left_id).state is JobState.QUEUED
            refused = submit("fifth")
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 600
            eventually(lambda: ledger.view(left_id).state is JobState.CANCELLED, 20)
            assert ledger.lane_counts(MODEL).queued == 3

            script: Script = worker.serve()
            for following in (stream, waiting, followed):
                following.join(30)
                assert not following.is_alive()
            assert stream.lines[-3].startswith("event: done")
            assert '"state":"succeeded"' in waiting.lines[0]
            assert followed.lines[-2] == "data: [DONE]"
            assert http.get(f"/v1/jobs/{after['id']}?wait=20").json()["result"]["text"] == script.text
    finally:
        assert api.stop() in (0, -signal.SIGTERM)
