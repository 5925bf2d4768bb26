"""Where the time of real jobs went, in calm and under faults: the parts add up to the wall time within 1 %."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import eventually
from worker_processes import Workers

from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.contract.timeline import AttemptEnd, PartKind, Timeline
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.server import EmbeddedServer

LEASE_SECONDS = 2.5
# Two slots, prompts in chunks of 32 tokens, and room for 320 tokens in all: a block of 32 takes 64 KiB.
SETTINGS = {
    "PACE_SECONDS": "0.01",
    "WOOLLY_SLOTS": "2",
    "WOOLLY_PREFILL_CHUNK": "32",
    "WOOLLY_KV_CACHE_BYTES": str(10 * 64 * 1024),
    "WOOLLY_LEASE_SECONDS": str(LEASE_SECONDS),
}


class TimedWorkers(Workers):
    def __init__(self, server: EmbeddedServer, logs: Path) -> None:
        super().__init__(server, logs, **SETTINGS)
        self.server = server

    def hand_in(self, n_prompt: int, max_tokens: int, **changes: Any) -> str:
        sampling = SamplingParams(temperature=0.8, seed=11, max_tokens=max_tokens, ignore_eos=True)
        prompt = tuple(range(5, 5 + n_prompt))
        submitted = self.ledger.submit(JobRequest(model="tiny", prompt=prompt, sampling=sampling, **changes))
        assert submitted.bell is not None
        self.app.send_task(**submitted.bell.send_task_options())
        return submitted.job_id

    def timeline(self, job_id: str, state: JobState = JobState.SUCCEEDED) -> Timeline:
        """Of a job that has ended, and took a second or more. Its parts add up to that."""
        assert self.ended(job_id).state is state

        async def read() -> Timeline:
            client = connect_async(self.url)
            try:
                return await LedgerReader(client).timeline(job_id)
            finally:
                await client.aclose()

        timeline = asyncio.run(read())
        assert timeline.seconds >= 1
        measured = sum(part.seconds for part in timeline.parts)
        assert abs(timeline.seconds - measured) <= 0.01 * timeline.seconds, timeline
        for part, following in zip(timeline.parts, timeline.parts[1:], strict=False):
            gap = following.start_seconds - (part.start_seconds + part.seconds)
            assert abs(gap) <= 0.01 * timeline.seconds, (part, following)
        return timeline


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimedWorkers]:
    folder = tmp_path_factory.mktemp("timelines")
    with EmbeddedServer(folder / "redis") as server, TimedWorkers(server, folder) as workers:
        workers.have(1)
        yield workers


def said(timeline: Timeline) -> list[str]:
    return [part.kind.value if part.cause is None else part.cause.value for part in timeline.parts]


def seconds(timeline: Timeline, name: str) -> float:
    pairs = zip(timeline.parts, said(timeline), strict=True)
    return sum(part.seconds for part, what in pairs if what == name)


def tokens(timeline: Timeline, kind: PartKind) -> int:
    return sum(part.n_tokens or 0 for part in timeline.parts if part.kind is kind)


def test_a_calm_job(workers: TimedWorkers) -> None:
    timeline = workers.timeline(workers.hand_in(20, 120))
    assert said(timeline)[:4] == ["queued", "starting", "admission", "prefill"]
    assert said(timeline)[-1] == "writing"
    assert tokens(timeline, PartKind.PREFILL) == 20
    assert tokens(timeline, PartKind.DECODE) == 119  # the last token is given out, never computed
    assert seconds(timeline, "decode") > 1
    assert [attempt.end for attempt in timeline.attempts] == [AttemptEnd.ENDED]


def test_a_long_prompt_is_computed_in_chunks_and_found_again(workers: TimedWorkers) -> None:
    timeline = workers.timeline(workers.hand_in(200, 115))
    assert tokens(timeline, PartKind.CACHE_HIT) == 0  # the job above began alike, but not with a whole block
    assert tokens(timeline, PartKind.PREFILL) == 200
    assert said(timeline).count("prefill") == 7
    again = workers.timeline(workers.hand_in(200, 115))
    cached = tokens(again, PartKind.CACHE_HIT)
    assert cached >= 32
    assert tokens(again, PartKind.PREFILL) == 200 - cached


def test_jobs_that_wait_for_each_other(workers: TimedWorkers) -> None:
    """Two have the slots and outgrow the KV blocks; one waits behind them, and one does not live to see its turn."""
    old, young = workers.hand_in(20, 200), workers.hand_in(21, 200)
    workers.streaming(old)
    behind, late = workers.hand_in(20, 80), workers.hand_in(20, 80, deadline_seconds=1.0)
    late_timeline = workers.timeline(late, JobState.EXPIRED)
    assert said(late_timeline) == ["queued"]
    assert "preempted" not in said(workers.timeline(old))
    timeline = workers.timeline(young)
    assert seconds(timeline, "preempted") > 0.1
    assert "prefill" in said(timeline)[said(timeline).index("preempted") :]
    assert seconds(workers.timeline(behind), "queued") > 1


def test_a_cancelled_job(workers: TimedWorkers) -> None:
    job_id = workers.hand_in(20, 250)
    eventually(lambda: workers.ledger.view(job_id).last_seq >= 100)
    workers.ledger.cancel(job_id)
    timeline = workers.timeline(job_id, JobState.CANCELLED)
    assert tokens(timeline, PartKind.DECODE) >= 99


def test_redis_stops_for_a_while(workers: TimedWorkers) -> None:
    job_id = workers.hand_in(20, 150)
    workers.streaming(job_id)
    os.kill(workers.server.pid, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(workers.server.pid, signal.SIGCONT)
    timeline = workers.timeline(job_id)
    assert seconds(timeline, "redis") > 0.3
    assert [attempt.end for attempt in timeline.attempts] == [AttemptEnd.ENDED]


def test_a_killed_worker(workers: TimedWorkers) -> None:
    workers.have(2)
    job_id = workers.hand_in(20, 120)
    workers.streaming(job_id)
    workers.end(workers.owner(job_id), signal.SIGKILL)
    timeline = workers.timeline(job_id)
    assert said(timeline)[:6] == ["queued", "running", "lost", "queued", "starting", "admission"]
    assert seconds(timeline, "lost") >= LEASE_SECONDS
    running = timeline.parts[1]
    assert (running.n_tokens or 0) >= 10
    assert (running.n_tokens or 0) + tokens(timeline, PartKind.DECODE) >= 119
    assert [attempt.end for attempt in timeline.attempts] == [AttemptEnd.LOST, AttemptEnd.ENDED]
    assert len({attempt.worker_id for attempt in timeline.attempts}) == 2
