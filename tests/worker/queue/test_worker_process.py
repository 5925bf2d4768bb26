"""Real worker processes with the demo model, on a server of their own: jobs, cancels, kills, drains."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import eventually
from worker_processes import N_TOKENS, PACE_SECONDS, PROMPT, Workers

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.events import DoneEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import JobRequest, JobResult
from woolly_worker.contract.states import JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.app import create_app
from woolly_worker.queue.worker import run
from woolly_worker.settings import WorkerSettings


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers")
    with EmbeddedServer(folder / "redis") as server, Workers(server, folder) as workers:
        yield workers


@pytest.fixture(scope="module")
def uninterrupted(workers: Workers) -> JobResult:
    """What the job of `submit()` says when nothing happens to it."""
    workers.have(1)
    return workers.result(workers.submit())


def check_stream(workers: Workers, job_id: str, result: JobResult) -> None:
    """Every token once and in order, and one end."""
    entries = workers.client.xrange(keys.events(job_id))
    events = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries]
    assert [entry for entry, _ in entries] == [f"{seq}-0" for seq in range(1, N_TOKENS + 2)]
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert tuple(token.token_id for token in tokens) == result.token_ids
    last = events[-1]
    assert isinstance(last, DoneEvent)
    assert "".join(token.text for token in tokens) + last.text == result.text


def test_a_job_with_its_metrics_everywhere_and_its_prompt_nowhere(workers: Workers) -> None:
    workers.have(1)
    heard: list[dict[str, Any]] = []
    over = threading.Event()

    def listen() -> None:
        with workers.app.connection_for_read() as connection:
            receiver = workers.app.events.Receiver(connection, handlers={"*": heard.append})
            while not over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        time.sleep(0.5)
        job_ids = [workers.submit(seed=seed) for seed in (1, 2, 3)]
        results = [workers.result(job_id) for job_id in job_ids]
        succeeded = lambda: [event for event in heard if event["type"] == "task-succeeded"]  # noqa: E731
        eventually(lambda: len(succeeded()) == 3)
    finally:
        over.set()
        listener.join(5)
    assert len({result.text for result in results}) == 3
    for job_id, result in zip(job_ids, results, strict=True):
        check_stream(workers, job_id, result)
        metrics = result.metrics
        assert metrics.batch_size_max == 3
        assert result.usage.completion_tokens == N_TOKENS
        assert 0 < (metrics.time_to_first_token_seconds or 0) < (metrics.total_seconds or 0)
        assert (metrics.decode_tokens_per_second or 0) > 1
        assert (metrics.inter_token_p50_seconds or 0) > PACE_SECONDS
        assert (metrics.kv_blocks, metrics.attempts, metrics.crashes) == ((metrics.kv_blocks or 0), 1, 0)
        assert (metrics.cpu_seconds or 0) > 0
    assert "'tokens': 80" in str(succeeded())
    received = [event for event in heard if event["type"] == "task-received"]
    assert {event["name"] for event in received} == {"generate[tiny]"}
    assert PROMPT not in str(heard)
    assert "secretive" not in workers.log_text()
    assert workers.log_text().count('"event": "job"') >= 3
    assert '"may_lose": "the last second"' in workers.log_text()


def test_a_cancel_takes_one_step(workers: Workers) -> None:
    workers.have(1)
    job_id = workers.submit()
    workers.streaming(job_id)
    assert workers.ledger.cancel(job_id) is JobState.RUNNING
    n_at_cancel = workers.ledger.view(job_id).last_seq
    view = workers.ended(job_id)
    # The step that was on its way, and those that a busy machine gives the engine before its writer's turn.
    assert view.last_seq <= n_at_cancel + 10
    assert view.state is JobState.CANCELLED
    assert view.result is not None
    assert len(view.result.token_ids) == view.last_seq < N_TOKENS


def test_flowers_terminate_button_cancels(workers: Workers) -> None:
    workers.have(1)
    job_id, another = workers.submit(), workers.submit()
    workers.streaming(job_id)
    workers.app.control.revoke(f"{job_id}.1", terminate=True)
    assert workers.ended(job_id).state is JobState.CANCELLED
    assert workers.ended(another).state is JobState.SUCCEEDED


def test_a_prompt_that_does_not_fit_fails_with_both_numbers(workers: Workers) -> None:
    workers.have(1)
    submitted = workers.ledger.submit(JobRequest(model="tiny", prompt=(5,) * 100_000))
    assert submitted.bell is not None
    workers.app.send_task(**submitted.bell.send_task_options())
    view = workers.ended(submitted.job_id)
    assert view.state is JobState.FAILED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "context_length_exceeded"
    assert "100000" in view.result.error.message.replace(",", "")


def test_a_killed_workers_job_goes_on_elsewhere_with_the_same_text(workers: Workers, uninterrupted: JobResult) -> None:
    workers.have(2)
    job_id = workers.submit()
    workers.streaming(job_id)
    workers.end(workers.owner(job_id), signal.SIGKILL)
    kept = workers.ledger.view(job_id).last_seq
    result = workers.result(job_id)
    assert result.text == uninterrupted.text
    assert result.token_ids == uninterrupted.token_ids
    assert (result.metrics.attempts, result.metrics.crashes) == (2, 1)
    assert kept >= 10
    check_stream(workers, job_id, result)


def test_a_drained_worker_gives_its_jobs_to_the_next(workers: Workers, uninterrupted: JobResult) -> None:
    workers.have(1)
    job_ids = [workers.submit() for _ in range(3)]
    for job_id in job_ids:
        workers.streaming(job_id)
    (process,) = workers.processes
    assert workers.end(process) == 0
    for job_id in job_ids:
        view = workers.ledger.view(job_id)
        assert (view.state, view.crashes) == (JobState.QUEUED, 0)
        assert view.last_seq >= 10
    assert workers.registry.workers() == []
    workers.have(1)
    for job_id in job_ids:
        result = workers.result(job_id)
        assert result.text == uninterrupted.text
        assert (result.metrics.attempts, result.metrics.crashes) == (2, 0)
        check_stream(workers, job_id, result)


def test_a_worker_that_claims_its_own_lost_job_again(workers: Workers, uninterrupted: JobResult) -> None:
    workers.have(1)
    (process,) = workers.processes
    job_id = workers.submit()
    workers.streaming(job_id)
    process.send_signal(signal.SIGSTOP)
    workers.ledger.reap()  # somebody was there all the time: Redis has not been away
    time.sleep(1.3)  # the lease is a second
    for bell in workers.ledger.reap().bells:
        workers.app.send_task(**bell.send_task_options())
    process.send_signal(signal.SIGCONT)
    result = workers.result(job_id)
    assert result.text == uninterrupted.text
    assert (result.metrics.attempts, result.metrics.crashes) == (2, 1)
    check_stream(workers, job_id, result)
    assert workers.end(process) == 0  # no task of the first attempt still waits
    assert "tasks did not return" not in workers.log_text()
    assert "jobs left to their leases" not in workers.log_text()


def test_a_short_job_may_end_during_the_drain(workers: Workers) -> None:
    workers.have(1)
    long, short = workers.submit(), workers.submit(max_tokens=20)
    workers.streaming(long)
    (process,) = workers.processes
    assert workers.end(process, signal.SIGINT) == 0
    assert workers.ledger.view(short).state is JobState.SUCCEEDED
    assert workers.ledger.view(long).state is JobState.QUEUED


def test_a_worker_whose_engine_dies_ends_and_gives_its_jobs_back(
    tmp_path: Path, ledger: Ledger, redis_url: str
) -> None:
    program = (
        "import sys; from woolly_worker.queue.loading import load_model\n"
        "from woolly_worker.queue.worker import run; from woolly_worker.settings import WorkerSettings\n"
        "def load(settings, on_events):\n"
        "    loaded = load_model(settings, on_events)\n"
        "    loaded.transformer.step = lambda: sys.exit('as if by a bug')\n"
        "    return loaded\n"
        "sys.exit(run(WorkerSettings(), load))"
    )
    env = {
        **os.environ,
        "WOOLLY_MODEL": str(DEMO_MODEL),
        "WOOLLY_MODEL_NAME": "tiny",
        "WOOLLY_REDIS_URL": redis_url,
        "WOOLLY_THREADS": "1",
        "WOOLLY_DRAIN_SECONDS": "20",
        "WOOLLY_LOG_FORMAT": "json",
    }
    submitted = ledger.submit(JobRequest(model="tiny", prompt=PROMPT))
    assert submitted.bell is not None
    app = create_app(redis_url)
    app.send_task(**submitted.bell.send_task_options())
    app.close()
    ended = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("the engine died, this worker ends") == 1
    view = ledger.view(submitted.job_id)
    assert (view.state, view.attempts, view.crashes) == (JobState.QUEUED, 1, 0)


def test_a_signal_while_the_model_loads_ends_it_at_once(tmp_path: Path, redis_url: str) -> None:
    program = (
        "import sys, time; from woolly_worker.queue.worker import run\n"
        "from woolly_worker.settings import WorkerSettings\n"
        "def load(settings, on_events): print('loading', flush=True); time.sleep(60)\n"
        "sys.exit(run(WorkerSettings(), load))"
    )
    env = {**os.environ, "WOOLLY_MODEL": str(DEMO_MODEL), "WOOLLY_REDIS_URL": redis_url}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, redis_url: str) -> None:
    model = tmp_path / "no.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    program = (
        "import sys; from woolly_worker.contract.errors import WoollyError\n"
        "from woolly_worker.queue.worker import run; from woolly_worker.settings import WorkerSettings\n"
        "try: run(WorkerSettings(log_level='warning'))\n"
        "except WoollyError as error: sys.exit(error.code + ': ' + error.message)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WOOLLY_MODEL": str(model), "WOOLLY_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("gguf_format_error: ")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_without_redis_nothing_starts(restored_logging: None) -> None:
    with pytest.raises(LedgerUnavailable):
        run(WorkerSettings(model=DEMO_MODEL, threads=1, redis_url="redis://127.0.0.1:1/0"))
