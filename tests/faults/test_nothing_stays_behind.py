"""After the retention time of its jobs Redis holds what it held before: the same keys, and their memory."""

import pytest
from scripted import eventually
from worker_processes import Workers

from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, Usage
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry
from woolly_worker.ledger.records import Claim, Emission, Finish
from woolly_worker.ledger.server import EmbeddedServer

RETENTION_SECONDS = 1.0
# Counters grow by digits, a heartbeat's numbers, too.
GROWTH_BYTES = 1024


def sizes(ledger: Ledger) -> dict[str, int]:
    """Bytes by key; without the reaper's mutex, which comes and goes every second."""
    found = {str(key): ledger.client.memory_usage(key, samples=0) for key in ledger.client.scan_iter()}
    return {key: size for key, size in found.items() if size is not None and key != keys.REAPER_MUTEX}


def check_back_at(base: dict[str, int], ledger: Ledger) -> None:
    def back() -> bool:
        now = sizes(ledger)
        return set(now) == set(base) and all(now[key] <= size + GROWTH_BYTES for key, size in base.items())

    eventually(back, 15 + RETENTION_SECONDS)


def no_jobs(ledger: Ledger) -> bool:
    return not ledger.client.keys(keys.job("*")) and not ledger.client.exists(keys.FINISHED_JOBS)


def run(workers: Workers, n_jobs: int) -> None:
    before = workers.ledger.lane_counts("tiny")
    for number in range(n_jobs):
        job_id = workers.submit(max_tokens=2)
        if number % 10 == 0:
            workers.ledger.cancel(job_id)  # at once: its record may be gone before the last is submitted

    def all_ended() -> bool:
        now = workers.ledger.lane_counts("tiny")
        return now.succeeded + now.cancelled == before.succeeded + before.cancelled + n_jobs

    eventually(all_ended, 60)


def test_five_hundred_jobs_of_a_real_worker(start_workers) -> None:
    workers = start_workers(1, PACE_SECONDS="0", WOOLLY_RETENTION_SECONDS=str(RETENTION_SECONDS))
    workers.ledger = Ledger(workers.client, retention_seconds=RETENTION_SECONDS)
    run(workers, 10)
    eventually(lambda: no_jobs(workers.ledger))
    base = sizes(workers.ledger)
    run(workers, 500)
    check_back_at(base, workers.ledger)


def play(ledger: Ledger, n_jobs: int) -> None:
    """Jobs from submit to done through the ledger, a few tokens each, from changing tenants."""
    for number in range(n_jobs):
        ledger.submit(JobRequest(model="tiny", prompt="x", tenant=f"tenant {number % 1000}"))
        job_id = ledger.next_job("tiny")
        assert job_id is not None
        claim = ledger.claim(job_id, "w", lease_seconds=30)
        assert isinstance(claim, Claim)
        tokens = [TokenEvent(seq=seq, token_id=seq, text=" x") for seq in (1, 2, 3)]
        ledger.emit([Emission(job_id, claim.fence, token) for token in tokens], lease_seconds=30)
        done = DoneEvent(seq=4, finish_reason="length", usage=Usage(), metrics={})  # type: ignore[arg-type]
        ledger.finish(Finish(job_id, claim.fence, "tiny", done, (1, 2, 3), " x x x"))
        if number % 100 == 0:
            ledger.reap()


@pytest.mark.slow
def test_twenty_thousand_jobs(server: EmbeddedServer) -> None:
    with connect(server.url) as client:
        ledger = Ledger(client, retention_seconds=RETENTION_SECONDS)
        ModelRegistry(client).announce(ModelCard(name="tiny", architecture="llama", n_ctx=64))
        play(ledger, 100)
        eventually(lambda: ledger.reap() and no_jobs(ledger))
        base, used = sizes(ledger), int(client.info("memory")["used_memory"])
        play(ledger, 20_000)
        eventually(lambda: ledger.reap() and no_jobs(ledger))
        check_back_at(base, ledger)
        # The server's own tables and buffers shrink as they please: a thirtieth of what the records took.
        eventually(lambda: int(client.info("memory")["used_memory"]) < used + 1_000_000, 30)
