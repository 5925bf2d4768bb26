"""Claimed, and waiting in the engine for KV blocks: such a job can be cancelled, expires, and goes back at a drain."""

import signal

from scripted import eventually
from worker_processes import PROMPT, Workers

from woolly_worker.contract.jobs import JobRequest, JobView, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.memory.kv_cache import BLOCK_TOKENS
from woolly_worker.model.transformer import kv_layout
from woolly_worker.model.weights import open_model

N_BLOCKS = 8  # one sequence of n_ctx; with the headroom of two nobody else is seated beside it
N_TOKENS = 200


def submit(workers: Workers, **more: float) -> str:
    sampling = SamplingParams(max_tokens=N_TOKENS, temperature=0.8, seed=11, ignore_eos=True)
    submitted = workers.ledger.submit(JobRequest(model="tiny", prompt=PROMPT, sampling=sampling, **more))
    assert submitted.bell is not None
    workers.app.send_task(**submitted.bell.send_task_options())
    return submitted.job_id


def in_the_waiting_room(workers: Workers, *job_ids: str) -> bool:
    views = [workers.ledger.view(job_id) for job_id in job_ids]
    (beat,) = workers.registry.workers()
    return beat.stats.waiting == len(job_ids) and all(
        (view.state, view.last_seq) == (JobState.RUNNING, 0) for view in views
    )


def check_never_seated(view: JobView, state: JobState) -> None:
    assert (view.state, view.attempts, view.last_seq) == (state, 1, 0)
    assert view.result is not None
    assert view.result.token_ids == ()


def test_a_job_without_a_seat(start_workers) -> None:
    config, _ = open_model(DEMO_MODEL)
    workers: Workers = start_workers(
        1,
        PACE_SECONDS="0.1",
        WOOLLY_N_CTX=str(N_BLOCKS * BLOCK_TOKENS),
        WOOLLY_KV_CACHE_BYTES=str(N_BLOCKS * kv_layout(config, "f16").block_bytes),
        WOOLLY_DRAIN_SECONDS="30",
    )
    seated = submit(workers)  # twenty seconds
    workers.streaming(seated)
    cancelled, left = submit(workers), submit(workers)
    eventually(lambda: in_the_waiting_room(workers, cancelled, left))

    expired = submit(workers, deadline_seconds=1.0)
    assert workers.ledger.cancel(cancelled) is JobState.RUNNING
    check_never_seated(workers.ended(cancelled), JobState.CANCELLED)
    check_never_seated(workers.ended(expired), JobState.EXPIRED)
    eventually(lambda: in_the_waiting_room(workers, left))

    # A drain lets go at once of who waits, so that another worker may begin; who has a seat may finish.
    (process,) = workers.processes
    process.send_signal(signal.SIGTERM)
    eventually(lambda: workers.ledger.view(left).state is JobState.QUEUED)
    assert workers.ledger.view(left).last_seq == 0
    assert workers.ledger.cancel(seated) is JobState.RUNNING
    assert workers.ended(seated).attempts == 1
    assert process.wait(30) == 0
    workers.have(1, PACE_SECONDS="0")
    result = workers.result(left)
    assert result.usage.completion_tokens == N_TOKENS
    assert (result.metrics.attempts, result.metrics.crashes) == (2, 0)
