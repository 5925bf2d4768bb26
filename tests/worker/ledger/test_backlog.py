"""What a queue holds, where a job stands in it, and how long that is expected to last."""

import asyncio
from typing import cast

import pytest

from woolly_worker.contract.errors import QueueFull
from woolly_worker.contract.events import DoneEvent
from woolly_worker.contract.jobs import ChatMessage, JobRequest, SamplingParams, Usage
from woolly_worker.ledger import keys
from woolly_worker.ledger.backlog import (
    TOKENS_PER_MESSAGE,
    UNLIMITED_COMPLETION_TOKENS,
    Backlog,
    cost_tokens,
)
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Claim, Finish

COST = 10  # of a job of `request`


def request(priority: int = 5, max_tokens: int = COST - 1) -> JobRequest:
    return JobRequest(model="tiny", prompt=(1,), priority=priority, sampling=SamplingParams(max_tokens=max_tokens))


def submit(ledger: Ledger, priority: int = 5) -> str:
    return ledger.submit(request(priority)).job_id


def backlog(ledger: Ledger) -> Backlog:
    return Backlog.of(cast(dict[str, str], ledger.client.hgetall(keys.lanes("tiny"))))


def run(ledger: Ledger, job_id: str) -> Claim:
    claim = ledger.claim(job_id, "w", lease_seconds=30)
    assert isinstance(claim, Claim)
    return claim


def end(ledger: Ledger, claim: Claim) -> None:
    event = DoneEvent(seq=1, finish_reason="stop", usage=Usage(), metrics={})
    ledger.finish(Finish(claim.job_id, claim.fence, "tiny", event, (), ""))


def test_what_a_job_may_take() -> None:
    assert cost_tokens(JobRequest(model="m", prompt=(1, 2, 3), sampling=SamplingParams(max_tokens=4))) == 7
    assert cost_tokens(JobRequest(model="m", prompt="12345678ä")) == 3 + UNLIMITED_COMPLETION_TOKENS
    messages = (ChatMessage(role="user", content="1234"), ChatMessage(role="user", content=""))
    chat = JobRequest(model="m", messages=messages, sampling=SamplingParams(max_tokens=1))
    assert cost_tokens(chat) == 2 * TOKENS_PER_MESSAGE + 1 + 1


def test_the_place_and_the_backlog_of_waiting_jobs_in_one_look(redis_url: str, ledger: Ledger) -> None:
    ids = [submit(ledger) for _ in range(3)]
    urgent = submit(ledger, priority=0)
    run(ledger, ids[0])

    async def look() -> tuple[dict[str, Backlog], list[int | None]]:
        async with connect_async(redis_url) as client:
            return await LedgerReader(client).queues([ledger.view(job_id) for job_id in (*ids, urgent)])

    backlogs, places = asyncio.run(look())
    assert places == [None, 1, 2, 0]
    assert (backlogs["tiny"].queued, backlogs["tiny"].queued_tokens, backlogs["tiny"].running) == (3, 3 * COST, 1)


def test_the_limit_of_tokens(ledger: Ledger) -> None:
    first = ledger.submit(request(max_tokens=500), max_queued_tokens=100)  # alone it may be above
    with pytest.raises(QueueFull) as caught:
        ledger.submit(request(), max_queued_tokens=510)
    assert caught.value.details == {"queued_tokens": 501, "job_tokens": COST, "limit": 510}
    assert ledger.submit(request(), max_queued_tokens=511).bell is not None
    run(ledger, first.job_id)
    assert ledger.lane_counts("tiny").queued_tokens == COST


def test_the_speed_is_that_of_ends_while_others_wait(ledger: Ledger) -> None:
    ids = [submit(ledger) for _ in range(4)]
    claims = [run(ledger, job_id) for job_id in ids[:3]]
    end(ledger, claims[0])
    assert backlog(ledger).tokens_per_second is None  # one end is no stretch of time
    ledger.client.hincrby(keys.lanes("tiny"), "drain:since_ms", -2000)
    end(ledger, claims[1])
    assert backlog(ledger).tokens_per_second == pytest.approx(COST / 2, rel=0.2)
    run(ledger, ids[3])  # nobody waits from here on
    end(ledger, claims[2])
    submit(ledger)
    assert ledger.client.hget(keys.lanes("tiny"), "drain:since_ms") is None


def test_a_worker_that_stops_begins_another_stretch(ledger: Ledger) -> None:
    ids = [submit(ledger) for _ in range(3)]
    claims = [run(ledger, job_id) for job_id in ids[:2]]
    end(ledger, claims[0])
    ledger.release(ids[1], claims[1].fence, "tiny")
    assert ledger.client.hget(keys.lanes("tiny"), "drain:since_ms") is None


def test_when_a_job_starts() -> None:
    queue = Backlog(queued=10, queued_tokens=1000, running=4, tokens_per_second=50.0)
    assert queue.start_seconds(10, slots=4, tokens_per_second=None) == (1000 + 100) / 50
    assert queue.start_seconds(1, slots=6, tokens_per_second=None) == 0.0
    assert queue.start_seconds(10, slots=6, tokens_per_second=None) == (1000 - 100) / 50
    assert queue.room_seconds(2, 0, tokens_per_second=1.0) == 200 / 50
    assert queue.room_seconds(1, 500, tokens_per_second=None) == 10
    fresh = Backlog(queued=10, queued_tokens=1000, running=4, tokens_per_second=None)
    assert fresh.start_seconds(10, slots=4, tokens_per_second=None) is None
    assert fresh.start_seconds(10, slots=4, tokens_per_second=100.0) == 11
    assert fresh.room_seconds(1, 0, tokens_per_second=None) is None


def test_a_record_of_a_version_that_did_not_count_changes_no_sum(ledger: Ledger) -> None:
    job_id = submit(ledger)
    ledger.client.hdel(keys.job(job_id), "cost")
    ledger.client.hdel(keys.lanes("tiny"), "all:queued_tokens")
    end(ledger, run(ledger, job_id))
    assert ledger.lane_counts("tiny").queued_tokens == 0
