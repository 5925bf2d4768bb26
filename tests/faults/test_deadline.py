"""No work is done after a job's deadline, whatever is away when it passes; the job says `expired`."""

import os
import signal
import time

from scripted import eventually
from worker_processes import N_TOKENS, PROMPT, Workers

from woolly_worker.contract.jobs import JobRequest, JobView, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.server import EmbeddedServer


def submit(workers: Workers, deadline_seconds: float, *, ring: bool = True) -> str:
    sampling = SamplingParams(max_tokens=500, temperature=0.8, seed=11, ignore_eos=True)
    request = JobRequest(model="tiny", prompt=PROMPT, sampling=sampling, deadline_seconds=deadline_seconds)
    submitted = workers.ledger.submit(request)
    assert submitted.bell is not None
    if ring:
        workers.app.send_task(**submitted.bell.send_task_options())
    return submitted.job_id


def check_expired(view: JobView) -> None:
    assert view.state is JobState.EXPIRED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "deadline_exceeded"
    assert len(view.result.token_ids) == view.last_seq < 500


def test_whatever_it_does_when_it_passes(server: EmbeddedServer, start_workers) -> None:
    workers = start_workers(1)
    running, others = submit(workers, 1.0), [workers.submit(max_tokens=110) for _ in range(3)]
    queued = submit(workers, 0.3)  # four slots are taken
    workers.streaming(running)
    check_expired(workers.ended(queued))
    assert workers.ledger.view(queued).attempts == 0
    check_expired(workers.ended(running))
    assert all(workers.ledger.view(job_id).state is JobState.RUNNING for job_id in others)

    # While Redis is stopped: the worker ends it by its own monotonic clock, and writes that down afterwards.
    stopped = submit(workers, 1.0)
    workers.streaming(stopped)
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(server.pid, signal.SIGCONT)
    check_expired(workers.ended(stopped))
    for job_id in others:
        workers.ended(job_id)

    # While its worker is dead: whichever reaper comes first closes it.
    orphan = submit(workers, 1.5)
    workers.streaming(orphan)
    workers.end(workers.processes[0], signal.SIGKILL)
    eventually(lambda: (time.sleep(0.1), workers.ledger.reap(), workers.ledger.view(orphan).state)[2] != "running")
    eventually(lambda: (workers.ledger.reap(), workers.ledger.view(orphan).state)[1] is JobState.EXPIRED)
    check_expired(workers.ledger.view(orphan))
    assert workers.ledger.view(orphan).attempts == 1

    # Before any worker is there, and its bell is answered late: nothing starts.
    late = submit(workers, 0.1)
    time.sleep(0.2)
    workers.have(1)
    check_expired(workers.ended(late))
    assert workers.ledger.view(late).attempts == 0
    assert workers.result(workers.submit()).usage.completion_tokens == N_TOKENS
