"""A real worker on a server that somebody else writes to: it refuses, says so, and goes on with its jobs."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import eventually
from worker_processes import Workers

from woolly_worker.contract.states import JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.ledger.versions import LEDGER_VERSION

SECRET = "a foreign word"
QUEUE = keys.bells("tiny")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers")
    with EmbeddedServer(folder / "redis") as server, Workers(server, folder) as workers:
        yield workers


def message(body: bytes, task: Any = keys.TASK_GENERATE, **changes: Any) -> str:
    """As Celery writes one, with something else in it."""
    properties = {
        "delivery_tag": "tag",
        "delivery_info": {"exchange": "", "routing_key": "m.tiny"},
        "body_encoding": "base64",
        "priority": 0,
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"task": task, "id": "an-id"},
            "properties": properties,
            **changes,
        }
    )


def arguments(*args: Any) -> bytes:
    return json.dumps([args, {}, {}]).encode()


PICKLED = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
EXPIRED = {"task": keys.TASK_GENERATE, "id": "an-id", "expires": "2001-01-01T00:00:00+00:00"}
MESSAGES: list[str | bytes] = [
    b"\xff\xfe\x00",
    "",
    "no JSON",
    "null",
    "[1, 2]",
    "[" * 100_000,
    '{"__type__": "uuid", "__value__": 1}',
    "{}",
    '{"properties": {}}',
    message(arguments(SECRET)),
    message(arguments("j:events")),
    message(arguments("*\n")),
    message(arguments("x" * 10_000)),
    message(arguments(1, 2)),
    message(arguments()),
    message(b"not JSON"),
    message(PICKLED, **{"content-type": "application/x-python-serialize"}),
    message(arguments("j"), task="os.system"),
    message(arguments("j"), task=["a", "list"]),
    message(arguments("j"), headers=None),
    message(arguments("j"), headers={**EXPIRED, "expires": SECRET}),
    message(arguments("j"), properties={"priority": "high", "delivery_tag": []}),
]


def refusals(workers: Workers) -> int:
    return workers.log_text().count('"event": "message refused"')


def test_messages_that_are_none_leave_for_ever_and_the_worker_stays(workers: Workers) -> None:
    workers.have(1)
    (process,) = workers.processes
    running = workers.submit()
    workers.streaming(running)
    workers.client.lpush(QUEUE, *MESSAGES)
    workers.client.lpush(QUEUE, message(arguments("gone")), message(arguments("gone"), headers=EXPIRED))
    job_id = workers.submit(max_tokens=5)
    workers.result(job_id)
    workers.result(running)
    eventually(lambda: refusals(workers) == len(MESSAGES))
    eventually(lambda: not workers.client.exists(QUEUE))
    assert process.poll() is None
    assert SECRET not in workers.log_text()
    eventually(lambda: workers.registry.workers()[0].stats.refused_messages_total == len(MESSAGES))


def test_a_queue_that_is_no_list_and_control_messages_that_are_none(workers: Workers) -> None:
    workers.have(1)
    (process,) = workers.processes
    for name in (QUEUE, keys.benchmarks("tiny")):
        workers.client.set(name, "hello")
    for text in (
        "no JSON",
        "[]",
        "{}",
        '{"properties": {"delivery_tag": "x", "body_encoding": "base64"}, "body": "!"}',
    ):
        workers.client.publish("/0.celery.pidbox", text)
    submitted = workers.ledger.submit(_request())
    workers.result(submitted.job_id)  # its bell is rung by a reaper, once the queue is a list again
    assert process.poll() is None


def test_damaged_jobs_end_and_the_others_of_their_batch_do_not_notice(workers: Workers) -> None:
    workers.have(1)
    (process,) = workers.processes
    good, stream_of, record_of = workers.submit(), workers.submit(), workers.submit()
    for job_id in (good, stream_of, record_of):
        workers.streaming(job_id)
    workers.client.xadd(keys.events(stream_of), {"hello": "world"})
    workers.client.hdel(keys.job(record_of), "seq")
    queued = workers.submit(max_tokens=5)
    workers.client.hset(keys.job(queued), "attempts", "many")
    for job_id in (stream_of, record_of):
        view = workers.ended(job_id)
        assert view.state is JobState.FAILED
        assert view.result is not None
        assert view.result.error is not None
        assert view.result.error.code == "internal_error"
    result = workers.result(good)
    assert (result.metrics.attempts, result.metrics.crashes) == (1, 0)
    workers.ended(queued)
    assert process.poll() is None
    assert '"event": "job damaged"' in workers.log_text()


def test_a_worker_ends_with_both_numbers_when_the_ledger_is_newer(workers: Workers) -> None:
    workers.have(1)
    (process,) = workers.processes
    workers.client.set(keys.LEDGER_VERSION, LEDGER_VERSION + 1)
    try:
        assert process.wait(30) == 1
        workers.processes.clear()
        assert "a newer program has the ledger" in workers.log_text()
        ended = subprocess.run(
            [sys.executable, "-m", "woolly_api.cli", "worker", "--model", str(DEMO_MODEL), "--redis", workers.url],
            env={**os.environ, "WOOLLY_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        (line,) = [line for line in ended.stderr.splitlines() if line.startswith("woolly: ")]
        assert f"has version {LEDGER_VERSION + 1}, this program works with version {LEDGER_VERSION}" in line
        assert "Traceback" not in ended.stderr
    finally:
        workers.client.delete(keys.LEDGER_VERSION)


def _request() -> Any:
    from woolly_worker.contract.jobs import JobRequest, SamplingParams

    return JobRequest(model="tiny", prompt="Once", sampling=SamplingParams(max_tokens=3))
