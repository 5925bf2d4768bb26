"""A cancel ends a job once, wherever it is: queued, on its way to the engine, in prefill, decoding, out of reach."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness import running_api
from scripted import eventually
from worker_processes import Workers

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.events import FailedEvent, job_event_adapter
from woolly_worker.contract.jobs import JobRequest, JobView, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.models import HEARTBEAT_SECONDS
from woolly_worker.ledger.server import EmbeddedServer


def check_one_end(workers: Workers, job_id: str) -> JobView:
    view = workers.ended(job_id)
    assert view.state is JobState.CANCELLED
    entries = workers.client.xrange(keys.events(job_id))
    events = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries]
    assert [isinstance(event, FailedEvent) for event in events] == [False] * view.last_seq + [True]
    return view


def check_idle(workers: Workers) -> None:
    """The engine holds nothing and generates nothing: two heartbeats with the same counters."""

    def steps() -> tuple[int, int, int]:
        (beat,) = workers.registry.workers()
        return beat.stats.running + beat.stats.waiting, beat.stats.steps_total, beat.stats.kv_blocks_free

    time.sleep(1.2 * HEARTBEAT_SECONDS)  # what is there now may be from before
    before = steps()
    assert before[0] == 0
    time.sleep(1.2 * HEARTBEAT_SECONDS)
    assert steps() == before


def submit_long_prompt(workers: Workers) -> str:
    request = JobRequest(model="tiny", prompt=tuple(range(3, 203)), sampling=SamplingParams(max_tokens=50))
    submitted = workers.ledger.submit(request)
    assert submitted.bell is not None
    workers.app.send_task(**submitted.bell.send_task_options())
    return submitted.job_id


def test_wherever_it_is(server: EmbeddedServer, start_workers) -> None:
    workers = start_workers(1, WOOLLY_PREFILL_CHUNK="4", PACE_SECONDS="0.05")
    in_prefill = submit_long_prompt(workers)  # fifty chunks
    decoding = workers.submit(max_tokens=200)
    workers.streaming(decoding)
    others = [workers.submit(max_tokens=200) for _ in range(2)]
    queued = workers.submit()  # four slots are taken
    eventually(lambda: all(workers.ledger.view(i).state is JobState.RUNNING for i in (in_prefill, *others)))

    # Queued: ended when the call returns.
    assert workers.ledger.cancel(queued) is JobState.CANCELLED
    assert check_one_end(workers, queued).attempts == 0
    # In prefill: before its first token, so within the chunks that were left.
    assert workers.ledger.cancel(in_prefill) is JobState.RUNNING
    assert check_one_end(workers, in_prefill).last_seq == 0

    # Decoding, by a hundred callers at once, who all hear the same.
    with running_api(server.url) as api, httpx.Client(base_url=api.url, timeout=20) as http:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: http.post(f"/v1/jobs/{decoding}/cancel"), range(100)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["cancel_requested"] for answer in answers} == {True}
        n_written = check_one_end(workers, decoding).last_seq
        assert http.post(f"/v1/jobs/{decoding}/cancel").json()["state"] == "cancelled"
    assert check_one_end(workers, decoding).last_seq == n_written < 200

    # While every connection of the worker, and ours, is cut again and again.
    def cut(over: threading.Event) -> None:
        while not over.wait(0.02):
            workers.client.client_kill_filter(_type="normal", skipme=True)

    over = threading.Event()
    cutter = threading.Thread(target=cut, args=(over,))
    cutter.start()
    try:
        for job_id in others:
            _cancel_patiently(workers, job_id)
        time.sleep(0.3)
    finally:
        over.set()
        cutter.join()
    for job_id in others:
        check_one_end(workers, job_id)
    check_idle(workers)
    assert workers.processes[0].poll() is None


def _cancel_patiently(workers: Workers, job_id: str) -> None:
    for _ in range(100):
        try:
            workers.ledger.cancel(job_id)
        except LedgerUnavailable:
            continue
        return
    pytest.fail("no cancel got through")


@pytest.mark.slow
def test_on_its_way_between_claim_and_engine(start_workers) -> None:
    """At some forty moments after the bell: one of them is between the claim and the engine."""
    workers = start_workers(1)
    job_ids = []
    for number in range(40):
        job_ids.append(workers.submit(max_tokens=200))
        eventually(lambda: workers.ledger.view(job_ids[-1]).state is JobState.RUNNING)
        time.sleep(number * 0.0005)
        workers.ledger.cancel(job_ids[-1])
    for job_id in job_ids:
        check_one_end(workers, job_id)
