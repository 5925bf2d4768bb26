"""Idempotency keys and jobs that run for a client who waits: what the ledger's scripts promise about them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from woolly_worker.contract.errors import IdempotencyKeyReused
from woolly_worker.contract.events import DoneEvent, FailedEvent
from woolly_worker.contract.jobs import ErrorInfo, JobRequest, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, Emission, Finish, Once, Reply

ONCE = Once("key-1", "digest-1")
LONG = 3600.0


def request(**changes: object) -> JobRequest:
    return JobRequest.model_validate({"model": "tiny", "prompt": "x", **changes})


def end(ledger: Ledger, job_id: str) -> None:
    claim = ledger.claim(job_id, "w", lease_seconds=30)
    assert isinstance(claim, Claim)
    event = DoneEvent(seq=1, finish_reason="stop", usage=Usage(), metrics={})
    assert ledger.finish(Finish(job_id, claim.fence, "tiny", event, (), "")).reply is Reply.OK


def look_at_followed(ledger: Ledger) -> tuple[str, ...]:
    """The reaper's look, as if the grace time of every job were over."""
    for job_id in ledger.client.zrange(keys.FOLLOWED_JOBS, 0, -1):
        ledger.client.zadd(keys.FOLLOWED_JOBS, {job_id: 1})
    return ledger.reap().abandoned


@contextmanager
def following(url: str, job_id: str) -> Iterator[None]:
    with closing(connect(url)) as client, closing(client.pubsub()) as pubsub:
        pubsub.subscribe(keys.channel(job_id))
        assert pubsub.get_message(timeout=5) is not None
        yield


def test_the_first_submit_makes_the_job_and_the_others_find_it(ledger: Ledger) -> None:
    first = ledger.submit(request(), once=ONCE)
    assert first.bell is not None
    assert not first.replayed
    again = ledger.submit(request(), once=ONCE)
    assert (again.job_id, again.bell, again.replayed) == (first.job_id, None, True)
    assert ledger.lane_counts("tiny").queued == 1
    end(ledger, first.job_id)
    assert ledger.submit(request(), once=ONCE).job_id == first.job_id


def test_the_same_call_again_is_no_replay(ledger: Ledger) -> None:
    """Its reply was lost: the caller still has to ring."""
    ledger.submit(request(), job_id="a", once=ONCE)
    again = ledger.submit(request(), job_id="a", once=ONCE)
    assert (again.job_id, again.replayed) == ("a", False)


def test_another_body_is_refused_and_another_tenant_is_not_concerned(ledger: Ledger) -> None:
    first = ledger.submit(request(), once=ONCE)
    with pytest.raises(IdempotencyKeyReused) as caught:
        ledger.submit(request(), once=Once(ONCE.key, "digest-2"))
    assert caught.value.details == {"job_id": first.job_id}
    assert not ledger.submit(request(tenant="another"), once=ONCE).replayed
    assert not ledger.submit(request(), once=Once("key-2", ONCE.digest)).replayed
    assert ledger.lane_counts("tiny").queued == 3


def test_of_many_at_once_one_makes_the_job(ledger: Ledger) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: ledger.submit(request(), once=ONCE), range(200)))
    assert len({submitted.job_id for submitted in found}) == 1
    assert [submitted.replayed for submitted in found].count(False) == 1


def test_what_was_accepted_once_is_not_refused_by_a_full_queue(ledger: Ledger) -> None:
    first = ledger.submit(request(), once=ONCE, max_queued=1, max_queued_tokens=1)
    assert ledger.submit(request(), once=ONCE, max_queued=1, max_queued_tokens=1).job_id == first.job_id


def test_the_key_lives_as_long_as_the_record_and_leaves_nothing(redis_url: str) -> None:
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, retention_seconds=0.05)
        first = ledger.submit(request(), once=ONCE, follow_seconds=LONG).job_id
        assert client.pttl(keys.once("default", ONCE.key)) == -1
        end(ledger, first)
        assert client.pttl(keys.once("default", ONCE.key)) >= client.pttl(keys.job(first))
        time.sleep(0.06)
        assert look_at_followed(ledger) == ()
        assert list(client.scan_iter(match="woolly:once:*")) == client.zrange(keys.FOLLOWED_JOBS, 0, -1) == []
        second = ledger.submit(request(), once=Once(ONCE.key, "another digest"))
        assert not second.replayed
        assert client.pttl(keys.once("default", ONCE.key)) == -1


def test_a_key_without_its_record_is_free(ledger: Ledger) -> None:
    first = ledger.submit(request(), once=ONCE).job_id
    ledger.client.delete(keys.job(first))
    assert ledger.submit(request(), once=ONCE).job_id != first


@pytest.mark.parametrize("running", [False, True])
def test_a_job_that_nobody_follows_is_cancelled_at_the_second_look(ledger: Ledger, running: bool) -> None:
    job_id = ledger.submit(request(), once=ONCE, follow_seconds=LONG).job_id
    claim = ledger.claim(job_id, "w", lease_seconds=30) if running else None
    assert ledger.reap().abandoned == ()  # its time has not come
    assert look_at_followed(ledger) == ()
    assert not ledger.view(job_id).cancel_requested
    assert look_at_followed(ledger) == (job_id,)
    if isinstance(claim, Claim):
        assert ledger.emit([Emission(job_id, claim.fence)], lease_seconds=30) == [Reply.CANCELLED]
    else:
        assert ledger.view(job_id).state is JobState.CANCELLED
    assert look_at_followed(ledger) == ()
    # Whoever comes now wants the answer.
    second = ledger.submit(request(), once=ONCE)
    assert not second.replayed
    if isinstance(claim, Claim):  # the end of the first does not set one to the key of the second
        event = DoneEvent(seq=1, finish_reason="stop", usage=Usage(), metrics={})
        ledger.finish(Finish(job_id, claim.fence, "tiny", event, (), ""))
    assert ledger.client.pttl(keys.once("default", ONCE.key)) == -1
    assert ledger.submit(request(), once=ONCE).job_id == second.job_id


def test_a_follower_on_any_connection_keeps_the_job(ledger: Ledger, redis_url: str) -> None:
    job_id = ledger.submit(request(), follow_seconds=LONG).job_id
    with following(redis_url, job_id):
        assert [look_at_followed(ledger) for _ in range(3)] == [()] * 3
    assert look_at_followed(ledger) == ()
    with following(redis_url, job_id):  # back in time
        assert look_at_followed(ledger) == ()
    assert look_at_followed(ledger) == ()
    assert look_at_followed(ledger) == (job_id,)


def test_who_comes_back_with_the_key_starts_the_time_anew(ledger: Ledger) -> None:
    job_id = ledger.submit(request(), once=ONCE, follow_seconds=LONG).job_id
    assert look_at_followed(ledger) == ()
    assert ledger.submit(request(), once=ONCE, follow_seconds=LONG).replayed
    assert look_at_followed(ledger) == ()
    assert look_at_followed(ledger) == (job_id,)


def test_a_job_that_somebody_cancelled_keeps_its_key(ledger: Ledger) -> None:
    job_id = ledger.submit(request(), once=ONCE).job_id
    ledger.cancel(job_id)
    assert ledger.submit(request(), once=ONCE).job_id == job_id


def test_a_damaged_record_stops_nobody(ledger: Ledger) -> None:
    ledger.client.zadd(keys.FOLLOWED_JOBS, {"broken": 1})
    ledger.client.set(keys.job("broken"), "no hash")
    job_id = ledger.submit(request(), follow_seconds=LONG).job_id
    assert look_at_followed(ledger) == ()
    assert look_at_followed(ledger) == (job_id,)


def test_a_failure_that_says_ask_again_leaves_the_key_free(ledger: Ledger) -> None:
    for retryable in (True, False):
        once = Once(f"key-{retryable}", "digest")
        first = ledger.submit(request(), once=once).job_id
        claim = ledger.claim(first, "w", lease_seconds=30)
        assert isinstance(claim, Claim)
        error = ErrorInfo(code="pool_exhausted", message="x", retryable=retryable)
        event = FailedEvent(seq=1, state=JobState.FAILED, error=error)
        ledger.finish(Finish(first, claim.fence, "tiny", event, (), ""))
        assert ledger.submit(request(), once=once).replayed is not retryable


def test_followers_have_time_to_come_back_after_an_absence_of_redis(ledger: Ledger) -> None:
    job_id = ledger.submit(request(), once=ONCE, follow_seconds=LONG).job_id
    assert look_at_followed(ledger) == ()
    ledger.client.set(keys.REAPER_SEEN, 1)
    assert look_at_followed(ledger) == ()  # would have been the second look that finds nobody
    assert look_at_followed(ledger) == ()
    assert look_at_followed(ledger) == (job_id,)
