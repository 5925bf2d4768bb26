"""How many come before a job, what they may take, and how long that is expected to last."""

from typing import cast

import pytest

from woolly_worker.contract.errors import QueueFull
from woolly_worker.contract.events import DoneEvent
from woolly_worker.contract.jobs import ChatMessage, JobRequest, SamplingParams, Usage
from woolly_worker.ledger import keys
from woolly_worker.ledger.backlog import (
    PLACE_FIELDS,
    TOKENS_PER_MESSAGE,
    UNLIMITED_COMPLETION_TOKENS,
    Ahead,
    Backlog,
    Place,
    cost_tokens,
)
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, Finish

LANES = {keys.lane_of(tenant): tenant for tenant in (f"tenant{i}" for i in range(100))}
COST = 10  # of a job of `request`


def request(lane: int = 0, priority: int = 5, max_tokens: int = COST - 1) -> JobRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return JobRequest(model="tiny", prompt=(1,), priority=priority, tenant=LANES[lane], sampling=sampling)


def submit(ledger: Ledger, lane: int = 0, priority: int = 5) -> str:
    return ledger.submit(request(lane, priority)).job_id


def backlog(ledger: Ledger) -> Backlog:
    return Backlog.of(cast(dict[str, str], ledger.client.hgetall(keys.lanes("tiny"))))


def ahead(ledger: Ledger, job_id: str) -> Ahead:
    place = Place.of(ledger.client.hmget(keys.job(job_id), PLACE_FIELDS))
    assert place is not None
    return backlog(ledger).ahead(place)


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


def test_in_a_lane_the_older_one_is_first(ledger: Ledger) -> None:
    ids = [submit(ledger) for _ in range(4)]
    assert [ahead(ledger, job_id) for job_id in ids] == [Ahead(n, n * COST) for n in range(4)]
    run(ledger, ids[0])
    assert [ahead(ledger, job_id).jobs for job_id in ids[1:]] == [0, 1, 2]


def test_a_lower_priority_number_is_first_in_all_lanes(ledger: Ledger) -> None:
    late = submit(ledger, priority=9)
    for lane in range(3):
        submit(ledger, lane, priority=0)
    assert ahead(ledger, late) == Ahead(3, 3 * COST)
    assert ahead(ledger, submit(ledger, priority=0)).jobs == 3


def test_lanes_take_turns(ledger: Ledger) -> None:
    for _ in range(100):
        submit(ledger, lane=1)
    alone = submit(ledger, lane=2)
    assert ahead(ledger, alone).jobs == 0
    third = [submit(ledger, lane=2) for _ in range(2)][-1]
    assert ahead(ledger, third).jobs == 2 + 2


def test_gaps_that_cancelled_jobs_leave_are_not_counted_beyond_those_that_wait(ledger: Ledger) -> None:
    ids = [submit(ledger) for _ in range(10)]
    for job_id in ids[:8]:
        ledger.cancel(job_id)
    assert ahead(ledger, ids[9]).jobs == 1


def test_a_job_that_was_given_back_is_next(ledger: Ledger) -> None:
    first = submit(ledger)
    claim = run(ledger, first)
    for _ in range(3):
        submit(ledger)
    released = ledger.release(first, claim.fence, "tiny")
    assert released.bell is not None
    bells = keys.bells("tiny", 0, 5)
    ledger.client.lpush(bells, f'"{released.bell.task_id}"')
    assert ledger.to_front(released.bell)
    assert ahead(ledger, first).jobs == 0


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
    queue = Backlog({}, queued=10, queued_tokens=1000, running=4, tokens_per_second=50.0)
    ten = Ahead(10, 1000.0)
    assert queue.start_seconds(ten, slots=4, tokens_per_second=None) == (1000 + 100) / 50
    assert queue.start_seconds(Ahead(1, 100.0), slots=6, tokens_per_second=None) == 0.0
    assert queue.start_seconds(ten, slots=6, tokens_per_second=None) == (1000 - 100) / 50
    assert queue.room_seconds(2, 0, tokens_per_second=1.0) == 200 / 50
    assert queue.room_seconds(1, 500, tokens_per_second=None) == 10
    fresh = Backlog({}, queued=10, queued_tokens=1000, running=4, tokens_per_second=None)
    assert fresh.start_seconds(ten, slots=4, tokens_per_second=None) is None
    assert fresh.start_seconds(ten, slots=4, tokens_per_second=100.0) == 11
    assert fresh.room_seconds(1, 0, tokens_per_second=None) is None


def test_a_record_of_a_version_that_did_not_count_changes_no_sum(ledger: Ledger) -> None:
    job_id = submit(ledger)
    ledger.client.hdel(keys.job(job_id), "cost")
    for name in ("l0:p5:queued", "l0:p5:tokens", "all:queued_tokens"):
        ledger.client.hdel(keys.lanes("tiny"), name)
    end(ledger, run(ledger, job_id))
    assert ledger.lane_counts("tiny").queued_tokens == 0
    assert backlog(ledger).lanes == {}
