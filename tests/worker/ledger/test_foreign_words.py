"""Words of others in what is no job's record: counts of a model, clocks of the reaper, certificates, idempotency keys.
They may cost what they stood for, and stop nobody."""

import asyncio
from typing import Any

import pytest

from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Claim, Emission, Finish, Once, Refusal, Reply

LEASE = 30.0
JOB = JobRequest(model="tiny", prompt="x")
COUNTS = (
    *(f"all:{name}" for name in (*JobState, "queued_tokens")),
    *("turns", "places", "short_ms", "idle_ms", "drain:tokens", "drain:ms", "drain:since_ms"),
)


@pytest.fixture
def cluster(ledger: Ledger) -> Ledger:
    ModelRegistry(ledger.client).announce(ModelCard(name="tiny", architecture="llama", n_ctx=8))
    return ledger


def claim(cluster: Ledger, job_id: str) -> Claim:
    claimed = cluster.claim(job_id, "w1", lease_seconds=LEASE)
    assert isinstance(claimed, Claim), claimed
    return claimed


def run(cluster: Ledger, job_id: str) -> None:
    """From its claim to its end."""
    fence = claim(cluster, job_id).fence
    token = Emission(job_id, fence, TokenEvent(seq=1, token_id=1, text="x"))
    assert cluster.emit([token], lease_seconds=LEASE) == [Reply.OK]
    event = DoneEvent(seq=2, finish_reason="stop", text="", usage=Usage(), metrics=JobMetrics())
    assert cluster.finish(Finish(job_id, fence, "tiny", event, (1,), "x")).reply is Reply.OK


async def queue_of(url: str) -> tuple[Any, list[int | None]]:
    client = connect_async(url)
    try:
        reader = LedgerReader(client)
        return await reader.queues([view for view in await reader.jobs() if view.state is JobState.QUEUED])
    finally:
        await client.aclose()


@pytest.mark.parametrize("word", ["", "x", "-3", "nan", "inf", "1e400", "9" * 30, "0x10", "1.5"])
def test_a_count_that_is_none_begins_anew(cluster: Ledger, redis_url: str, word: str) -> None:
    waiting = cluster.submit(JOB).job_id
    cluster.client.hset(keys.lanes("tiny"), mapping=dict.fromkeys(COUNTS, word))
    cluster.client.set(keys.REAPER_SEEN, word)
    assert cluster.lane_counts("tiny").queued in (0, -3)
    asyncio.run(queue_of(redis_url))
    assert cluster.reap().bells == ()  # it counts, and sees for the first time that bells are missing
    cluster.client.hincrby(keys.lanes("tiny"), "short_ms", -10_000)  # as if that were ten seconds ago
    assert [bell.job_id for bell in cluster.reap().bells] == [waiting]
    assert cluster.lane_counts("tiny").queued == 1

    job_id = cluster.submit(JOB, max_queued=10, max_queued_tokens=10_000).job_id
    run(cluster, job_id)
    run(cluster, waiting)
    assert cluster.lane_counts("tiny").queued == 0
    again = cluster.submit(JOB).job_id
    assert cluster.release(again, claim(cluster, again).fence, "tiny").bell is not None
    assert cluster.cancel(again) is JobState.CANCELLED
    assert cluster.next_job("tiny") is None


def test_a_record_of_another_type_holds_up_no_lane_and_no_reaper(cluster: Ledger, redis_url: str) -> None:
    first, second, running = (cluster.submit(JOB, follow_seconds=30).job_id for _ in range(3))
    claim(cluster, running)
    cluster.client.set(keys.job(first), "hello")
    cluster.client.hset(keys.job(second), mapping={"grace_ms": "nan", "alone_ms": "x"})
    cluster.client.zadd(keys.FOLLOWED_JOBS, {first: 1, second: 1, "*": 1})
    cluster.client.set(keys.REAPER_SEEN, 1)  # so long ago that leases are looked through
    cluster.client.zadd(keys.OPEN_JOBS, {first: 2}, xx=True)
    assert cluster.next_job("tiny") == second
    asyncio.run(queue_of(redis_url))
    assert Deaths(cluster.client).certify("w1", signal="SIGKILL", exit_code=None, out_of_memory=None) == [running]
    reaped = cluster.reap()
    assert [(job.job_id, job.reason) for job in reaped.broken] == [(first, "it is a string")]
    assert reaped.abandoned == ()
    assert cluster.client.zrange(keys.FOLLOWED_JOBS, 0, -1) == [running]
    assert isinstance(cluster.claim(second, "w2", lease_seconds=LEASE), Refusal)  # the field 'grace_ms' is no number
    counts = cluster.lane_counts("tiny")
    assert (counts.queued, counts.running) == (1, 0)  # what the dead worker had


def test_a_certificate_that_is_none_is_as_none(cluster: Ledger) -> None:
    job_id = cluster.submit(JOB).job_id
    claim(cluster, job_id)
    cluster.client.hset(keys.job(job_id), "lease_ms", 1)
    cluster.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    cluster.reap()
    cluster.client.set(keys.death("w1"), "no JSON")
    (loss,) = cluster.view(job_id).history
    assert (loss.worker, loss.ending) == ("w1", None)


def test_an_idempotency_key_of_another_type_is_free(cluster: Ledger) -> None:
    key = keys.once("default", "k")
    cluster.client.set(key, "hello")
    first = cluster.submit(JOB, once=Once("k", "d"))
    assert cluster.submit(JOB, once=Once("k", "d")).job_id == first.job_id
    cluster.client.hset(key, "job", "*")
    assert not cluster.submit(JOB, once=Once("k", "d")).replayed


def test_a_job_that_could_not_be_submitted_leaves_nothing(cluster: Ledger) -> None:
    cluster.client.set(f"{keys.lanes('tiny')}#5#default", "hello")
    with pytest.raises(Exception, match="WRONGTYPE"):
        cluster.submit(JOB, job_id="j")
    assert not cluster.client.exists(keys.job("j"))
    assert cluster.client.zcard(keys.OPEN_JOBS) == 0
