"""Redis is away for longer than every lease, stopped or dead: nothing needs a restart, no job is charged for it."""

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from harness import running_api
from worker_processes import Workers

from woolly_api.client import Event, WoollyClient
from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, Refusal
from woolly_worker.ledger.server import EmbeddedServer

LEASE_SECONDS = 3  # what is left of it when Redis comes back is time enough to reconnect
N_TOKENS = 100


def follow(url: str, job_id: str, heard: list[Event]) -> None:
    with WoollyClient(url) as client:
        heard.extend(client.events(job_id))


class Absence:
    """A server that goes away and comes back with the same address and data."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.server = EmbeddedServer(folder)
        self.port = self.server.port

    def begin(self) -> None:
        os.kill(self.server.pid, signal.SIGSTOP if self.kind == "stopped" else signal.SIGKILL)
        if self.kind == "dead":
            self.server.stop()  # only its files

    def end(self) -> None:
        if self.kind == "stopped":
            os.kill(self.server.pid, signal.SIGCONT)
        else:
            self.server = EmbeddedServer(self.folder, port=self.port)


def check_refusals(http: httpx.Client, job_id: str) -> None:
    for answer in (http.post("/v1/jobs", json={"model": "tiny", "prompt": "x"}), http.get(f"/v1/jobs/{job_id}")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "ledger_unavailable"


def attack(folder: Path, kind: str, seconds: float) -> None:
    absence = Absence(folder / "redis", kind)
    with ExitStack() as ending:
        ending.callback(lambda: absence.server.stop())
        workers = ending.enter_context(Workers(absence.server, folder, WOOLLY_LEASE_SECONDS=str(LEASE_SECONDS)))
        workers.have(2)
        api = ending.enter_context(running_api(absence.server.url, reaper=True, redis_timeout_seconds=0.5))
        http = ending.enter_context(httpx.Client(base_url=api.url, timeout=20))
        undisturbed = workers.result(workers.submit(max_tokens=N_TOKENS))
        job_ids = [workers.submit(max_tokens=N_TOKENS) for _ in range(6)]
        heard: list[list[Event]] = [[] for _ in job_ids]
        followers = [
            threading.Thread(target=follow, args=(api.url, *pair)) for pair in zip(job_ids, heard, strict=True)
        ]
        for follower in followers:
            follower.start()
        for job_id in job_ids:
            workers.streaming(job_id)

        absence.begin()
        until = time.monotonic() + seconds
        check_refusals(http, job_ids[0])
        time.sleep(max(0.0, until - time.monotonic()))
        absence.end()

        for job_id in job_ids:
            result = workers.result(job_id)
            assert (result.metrics.attempts, result.metrics.crashes) == (1, 0)
            assert result.text == undisturbed.text
        for follower, events in zip(followers, heard, strict=True):
            follower.join(30)
            written = [event for event in events if isinstance(event, TokenEvent | DoneEvent)]
            assert [event.seq for event in written] == list(range(1, N_TOKENS + 2))
            assert "".join(event.text for event in written) == undisturbed.text
        assert [process.poll() for process in workers.processes] == [None, None]
        # And nothing needs a restart: handed in, rung, taken, answered.
        body = {"model": "tiny", "prompt": "x", "sampling": {"max_tokens": 2}}
        job_id = http.post("/v1/jobs", json=body).json()["id"]
        assert http.get(f"/v1/jobs/{job_id}?wait=30").json()["state"] == "succeeded"


@pytest.mark.parametrize("kind", [pytest.param("stopped", marks=pytest.mark.slow), "dead"])
def test_longer_than_a_lease(tmp_path: Path, kind: str) -> None:
    attack(tmp_path, kind, LEASE_SECONDS + 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stopped", "dead"])
def test_for_a_minute(tmp_path: Path, kind: str) -> None:
    attack(tmp_path, kind, 60)


def test_leases_stand_still_while_nobody_is_there_to_see_them(ledger: Ledger, redis_url: str) -> None:
    """An absence of ten minutes, told to the ledger by its own record of when a reaper was here last."""
    from scripted import eventually, request

    def claimed(job_id: str, left_ms: int) -> None:
        """With a lease that had `left_ms` when Redis was heard last."""
        ledger.submit(request(), job_id=job_id)
        assert isinstance(ledger.claim(job_id, "w", lease_seconds=30), Claim)
        ledger.client.hset(keys.job(job_id), "lease_ms", last + left_ms)
        ledger.client.zadd(keys.OPEN_JOBS, {job_id: last + left_ms})

    seconds, _ = ledger.client.time()
    last = (int(seconds) - 600) * 1000
    for job_id, left_ms in (("long-gone", -1000), ("almost", 1_000), ("alive", 30_000)):
        claimed(job_id, left_ms)
    ledger.client.set(keys.REAPER_SEEN, last)
    # A bell of its own that comes before the first reaper takes nothing away.
    assert isinstance(ledger.claim("alive", "another", lease_seconds=30), Refusal)
    reaped = ledger.reap()
    assert 600 <= reaped.away_seconds < 660
    assert reaped.n_extended == 2
    assert [bell.job_id for bell in reaped.bells] == ["long-gone"]
    eventually(lambda: [bell.job_id for bell in ledger.reap().bells] == ["almost"])
    assert ledger.view("alive").crashes == 0
