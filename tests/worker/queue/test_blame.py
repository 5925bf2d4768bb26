"""Who killed the worker, with real worker processes that really die: the culprit fails, and nobody else."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deadly_worker import MARK
from scripted import eventually
from worker_processes import N_TOKENS, Workers

from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.reaper import Reaper
from woolly_worker.ledger.server import EmbeddedServer

DEADLY_WORKER = Path(__file__).with_name("deadly_worker.py")
DEATHS = ["SIGKILL", "7", "SIGSEGV"]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """With a lease that no test waits for, and the reaper that an API would have."""
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        Workers(server, tmp_path, DEADLY_WORKER, WOOLLY_LEASE_SECONDS="60", WOOLLY_PREFIX_CACHE="0") as workers,
    ):
        reaper = Reaper(
            workers.ledger, lambda bell: workers.app.send_task(**bell.send_task_options()), "api", turn_seconds=0.1
        )
        reaper.start()
        try:
            yield workers
        finally:
            reaper.stop()


def submit(workers: Workers, prompt: tuple[int, ...], seed: int) -> str:
    sampling = SamplingParams(temperature=0.8, seed=seed, max_tokens=N_TOKENS, ignore_eos=True)
    submitted = workers.ledger.submit(JobRequest(model="tiny", prompt=prompt, sampling=sampling))
    assert submitted.bell is not None
    workers.app.send_task(**submitted.bell.send_task_options())
    return submitted.job_id


def test_the_third_death_convicts_the_culprit_and_nobody_else(workers: Workers) -> None:
    prompts = [tuple(range(20 + i, 30 + i)) for i in range(3)]
    workers.have(1, DEATH=DEATHS[0])
    undisturbed = list(map(workers.result, [submit(workers, prompt, seed) for seed, prompt in enumerate(prompts)]))
    # given: a culprit among others
    innocents = [submit(workers, prompt, seed) for seed, prompt in enumerate(prompts)]
    eventually(lambda: all(workers.ledger.view(job_id).last_seq >= 3 for job_id in innocents))
    culprit = submit(workers, (20, 21, MARK, 22), 1)
    # when: whatever dies is started again
    statuses = []
    for death, pace in zip([*DEATHS[1:], "unused"], ["0.02", "0.005", "0.005"], strict=True):
        (process,) = workers.processes
        statuses.append(process.wait(60))
        workers.start(1, DEATH=death, PACE_SECONDS=pace)
    # then: three deaths, each known, and the last one alone
    view = workers.ended(culprit)
    assert (view.state, view.crashes, view.attempts) == (JobState.FAILED, 3, 3)
    assert [(loss.how, loss.alone) for loss in view.history] == [
        ("killed by SIGKILL", False),
        ("ended with exit code 7", False),
        ("killed by SIGSEGV", True),
    ]
    assert statuses == [-signal.SIGKILL, 7, -signal.SIGSEGV]
    assert len({loss.worker for loss in view.history}) == 3
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "poison_job"
    assert [loss["how"] for loss in view.result.error.details["history"]] == [loss.how for loss in view.history]
    # and: the others say what they say undisturbed, whatever it cost
    for job_id, expected in zip(innocents, undisturbed, strict=True):
        result = workers.result(job_id)
        assert (result.text, result.token_ids) == (expected.text, expected.token_ids)
        assert 2 <= workers.ledger.view(job_id).crashes <= 3
    (process,) = workers.processes
    assert process.poll() is None


def test_a_request_that_kills_whoever_reads_it_is_alone_the_third_time(workers: Workers) -> None:
    deadly = {"DEATH": "SIGKILL", "DIES_READING": "yes"}
    workers.have(1, **deadly)
    innocent = submit(workers, (30, 31, 32), 0)
    eventually(lambda: workers.ledger.view(innocent).last_seq >= 3)
    culprit = submit(workers, (20, 21, MARK, 22), 1)
    for _ in range(3):
        (process,) = workers.processes
        assert process.wait(60) == -signal.SIGKILL
        workers.start(1, **deadly)
    view = workers.ended(culprit)
    assert (view.state, view.crashes) == (JobState.FAILED, 3)
    assert [loss.alone for loss in view.history] == [False, False, True]
    workers.result(innocent)


def test_a_worker_killed_from_outside_fails_nobody_and_is_replaced_before_its_leases_end(workers: Workers) -> None:
    def all_have(n_attempts: int, n_crashes: int) -> bool:
        views = [workers.ledger.view(job_id) for job_id in job_ids]
        return all(view.attempts == n_attempts and view.crashes == n_crashes and view.last_seq >= 4 for view in views)

    workers.have(1, DEATH="unused")
    job_ids = [submit(workers, (30, 31, 32), seed) for seed in range(2)]
    for n in (1, 2):
        eventually(lambda: all_have(n, n - 1), 30)  # noqa: B023
        (process,), (beat,) = workers.processes, workers.registry.workers()
        assert beat.parent_pid == process.pid
        os.kill(beat.pid, signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
        assert workers.registry.workers() == []
        eventually(lambda: all_have(n, n), 20)  # noqa: B023 - long before the lease of a minute
        workers.have(1, DEATH="unused")
    for job_id in job_ids:
        view = workers.ended(job_id)
        assert (view.state, view.crashes) == (JobState.SUCCEEDED, 2)
        assert [loss.how for loss in view.history] == ["killed by SIGKILL"] * 2
