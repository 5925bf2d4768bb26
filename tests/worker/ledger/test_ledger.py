"""One transition at a time, against a real server."""

import json
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from woolly_worker.contract.errors import JobNotFound, LedgerUnavailable, QueueFull
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import ErrorInfo, JobMetrics, JobRequest, JobResult, SamplingParams, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect, script_text
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, ClaimOutcome, Emission, Finish, Refusal, Reply

LEASE = 30.0
SECRET = "the prompt nobody else may see"


def request(**changes: object) -> JobRequest:
    return JobRequest.model_validate({"model": "tiny", "prompt": SECRET, **changes})


def submit(ledger: Ledger, **changes: object) -> str:
    return ledger.submit(request(**changes)).job_id


def claim(ledger: Ledger, job_id: str, owner: str = "w1", lease: float = LEASE) -> Claim:
    claimed = ledger.claim(job_id, owner, lease_seconds=lease)
    assert isinstance(claimed, Claim), claimed
    return claimed


def refused(ledger: Ledger, job_id: str, owner: str = "w2") -> ClaimOutcome:
    refusal = ledger.claim(job_id, owner, lease_seconds=LEASE)
    assert isinstance(refusal, Refusal), refusal
    return refusal.outcome


def token(job_id: str, fence: int, seq: int) -> Emission:
    return Emission(job_id, fence, TokenEvent(seq=seq, token_id=100 + seq, text=f" t{seq}"))


def emit(ledger: Ledger, *emissions: Emission, lease: float = LEASE) -> list[Reply]:
    return ledger.emit(emissions, lease_seconds=lease)


def done(claimed: Claim, n_tokens: int) -> Finish:
    event = DoneEvent(
        seq=n_tokens + 1,
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=n_tokens, total_tokens=3 + n_tokens),
        metrics=JobMetrics(decode_tokens_per_second=12.5),
    )
    ids = tuple(101 + i for i in range(n_tokens))
    text = "".join(f" t{i + 1}" for i in range(n_tokens))
    return Finish(claimed.job_id, claimed.fence, claimed.request.model, event, ids, text)


def expire_lease(ledger: Ledger, job_id: str) -> None:
    """As if the worker had been silent for long."""
    ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})


def look_now(ledger: Ledger, job_id: str) -> None:
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})


def look_for_bells(ledger: Ledger) -> list[tuple[str, int]]:
    """Two looks of the reaper: a bell that is on its way at the first one is not missing at the next."""
    assert ledger.reap().bells == ()
    ledger.client.hincrby(keys.lanes("tiny"), "short_ms", -10_000)  # as if the first were ten seconds ago
    return [(bell.job_id, bell.number) for bell in ledger.reap().bells]


def stream(ledger: Ledger, job_id: str) -> list[str]:
    return [fields["e"] for _, fields in ledger.client.xrange(keys.events(job_id))]


def test_a_job_from_submit_to_done(ledger: Ledger) -> None:
    submitted = ledger.submit(request(metadata={"who": "me"}, priority=2, tenant="acme"))
    job_id = submitted.job_id
    assert submitted.bell is not None
    assert submitted.bell.task_id == f"{job_id}.1"
    assert ledger.view(job_id).state is JobState.QUEUED
    assert ledger.lane_counts("tiny").queued == 1

    claimed = claim(ledger, job_id)
    assert (claimed.fence, claimed.attempt, claimed.token_ids) == (1, 1, ())
    assert claimed.request.prompt == SECRET
    assert ledger.lane_counts("tiny").running == 1

    assert emit(ledger, Emission(job_id, 1), token(job_id, 1, 1), token(job_id, 1, 2)) == [Reply.OK] * 3
    finished = ledger.finish(done(claimed, 2))
    assert finished.reply is Reply.OK

    view = ledger.view(job_id)
    assert view.state is JobState.SUCCEEDED
    assert view.metadata == {"who": "me"}
    assert view.last_seq == 2
    assert view.finished_at is not None
    assert view.result is not None
    assert view.result == finished.result
    assert view.result.text == " t1 t2"
    assert view.result.token_ids == (101, 102)
    metrics = view.result.metrics
    assert metrics.decode_tokens_per_second == 12.5
    assert metrics.attempts == 1
    assert metrics.queue_wait_seconds is not None
    assert metrics.time_to_first_token_seconds is not None
    assert metrics.total_seconds is not None
    assert 0 <= metrics.queue_wait_seconds <= metrics.time_to_first_token_seconds <= metrics.total_seconds

    ids = [entry for entry, _ in ledger.client.xrange(keys.events(job_id))]
    assert ids == ["1-0", "2-0", "3-0"]
    last = job_event_adapter.validate_json(stream(ledger, job_id)[-1])
    assert isinstance(last, DoneEvent)
    assert last.metrics == metrics


def test_the_wait_in_the_queue_ends_with_the_first_claim(ledger: Ledger) -> None:
    job_id = submit(ledger)
    released = claim(ledger, job_id)
    ledger.release(job_id, released.fence, "tiny")
    again = claim(ledger, job_id)
    ledger.client.hset(keys.job(job_id), mapping={"created_ms": 1000, "started_ms": 3500, "claimed_ms": 9000})
    assert ledger.finish(done(again, 0)).result.metrics.queue_wait_seconds == 2.5


@pytest.mark.parametrize("end", ["cancelled", "expired", "failed"])
def test_a_job_that_ends_without_its_worker_keeps_the_tokens_that_were_counted(redis_url: str, end: str) -> None:
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, max_crashes=1)
        job_id = submit(ledger, deadline_seconds=60)
        claim(ledger, job_id)
        emit(ledger, replace(token(job_id, 1, 1), n_prompt=7), token(job_id, 1, 2))
        if end == "failed":  # as poison
            client.hset(keys.job(job_id), "alone", 1)
        elif end == "cancelled":
            ledger.cancel(job_id)
        else:
            client.hset(keys.job(job_id), "deadline_ms", 1)
        expire_lease(ledger, job_id)
        ledger.reap()
        view = ledger.view(job_id)
    assert view.state == end
    assert view.result is not None
    assert view.result.usage == Usage(prompt_tokens=7, completion_tokens=2, total_tokens=9)


def test_a_finished_job_keeps_its_record_only_for_a_while(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claimed = claim(ledger, job_id)
    assert ledger.client.ttl(keys.job(job_id)) == -1
    ledger.finish(done(claimed, 0))
    assert 0 < ledger.client.ttl(keys.job(job_id)) <= 3600
    assert 0 < ledger.client.ttl(keys.events(job_id)) <= 3600
    assert ledger.client.zrange(keys.OPEN_JOBS, 0, -1) == []
    assert ledger.client.zrange(keys.FINISHED_JOBS, 0, -1) == [job_id]
    counts = ledger.lane_counts("tiny")
    assert (counts.queued, counts.running, counts.succeeded) == (0, 0, 1)


def test_an_expired_record_leaves_the_index_of_finished_jobs(redis_url: str) -> None:
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, retention_seconds=0.02)
        first = submit(ledger)
        ledger.finish(done(claim(ledger, first), 0))
        time.sleep(0.05)
        with pytest.raises(JobNotFound):
            ledger.view(first)
        second = submit(ledger)
        ledger.finish(done(claim(ledger, second), 0))
        ledger.reap()
        assert client.zrange(keys.FINISHED_JOBS, 0, -1) in ([second], [])


def test_the_seed_is_drawn_once_and_stays(ledger: Ledger) -> None:
    job_id = submit(ledger)
    first = claim(ledger, job_id)
    ledger.release(job_id, first.fence, "tiny")
    second = claim(ledger, job_id)
    assert first.request.sampling.seed is not None
    assert first.request == second.request
    given = submit(ledger, sampling={"seed": 7})
    assert claim(ledger, given).request.sampling == SamplingParams(seed=7)


def test_only_the_record_knows_the_prompt(ledger: Ledger) -> None:
    submitted = ledger.submit(request())
    assert submitted.bell is not None
    assert SECRET not in json.dumps(submitted.bell.send_task_options())
    claimed = claim(ledger, submitted.job_id)
    emit(ledger, token(submitted.job_id, 1, 1))
    ledger.finish(done(claimed, 1))
    for key in ledger.client.scan_iter():
        if ledger.client.type(key) == "hash" and key == keys.job(submitted.job_id):
            fields = ledger.client.hgetall(key)
            assert [name for name, value in fields.items() if SECRET in value] == ["request"]
        else:
            assert SECRET not in str(contents(ledger, key))


def contents(ledger: Ledger, key: str) -> object:
    read = {
        "hash": ledger.client.hgetall,
        "stream": ledger.client.xrange,
        "string": ledger.client.get,
        "zset": lambda name: ledger.client.zrange(name, 0, -1),
    }
    return read[ledger.client.type(key)](key)


def test_submitting_the_same_id_twice_records_it_once(ledger: Ledger) -> None:
    first = ledger.submit(request(), job_id="same")
    second = ledger.submit(request(), job_id="same")
    assert first.bell is not None
    assert second == type(second)("same", None)
    assert ledger.lane_counts("tiny").queued == 1


def test_a_full_queue_refuses_with_both_numbers(ledger: Ledger) -> None:
    submit(ledger)
    submit(ledger, tenant="another")
    with pytest.raises(QueueFull, match=r"2 jobs .* limit is 2") as caught:
        ledger.submit(request(), max_queued=2)
    assert caught.value.details == {"queued": 2, "limit": 2}
    assert ledger.submit(request(model="other"), max_queued=2).bell is not None


def test_every_duplicate_bell_ends_at_the_claim(ledger: Ledger) -> None:
    assert refused(ledger, "never-there") is ClaimOutcome.GONE
    job_id = submit(ledger)
    claimed = claim(ledger, job_id)
    assert refused(ledger, job_id) is ClaimOutcome.BUSY
    assert refused(ledger, job_id, owner="w1") is ClaimOutcome.BUSY
    ledger.finish(done(claimed, 0))
    assert refused(ledger, job_id) is ClaimOutcome.TERMINAL


def test_a_repeated_claim_gets_the_same_answer(ledger: Ledger) -> None:
    job_id = submit(ledger)
    first = ledger.claim(job_id, "w1", lease_seconds=LEASE, claim_id="c")
    again = ledger.claim(job_id, "w1", lease_seconds=LEASE, claim_id="c")
    assert first == again
    assert ledger.view(job_id).attempts == 1


def test_a_repeated_emit_does_no_harm(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id)
    assert emit(ledger, token(job_id, 1, 1)) == [Reply.OK]
    assert emit(ledger, token(job_id, 1, 1), token(job_id, 1, 2)) == [Reply.OK, Reply.OK]
    assert len(stream(ledger, job_id)) == 2


def test_a_hole_in_the_sequence_is_refused(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claimed = claim(ledger, job_id)
    assert emit(ledger, token(job_id, 1, 2)) == [Reply.GAP]
    assert ledger.finish(done(claimed, 4)).reply is Reply.GAP
    assert stream(ledger, job_id) == []
    assert ledger.view(job_id).state is JobState.RUNNING


def test_one_call_answers_each_job_of_the_batch_for_itself(ledger: Ledger) -> None:
    mine, taken, cancelled = (submit(ledger) for _ in range(3))
    for job_id in (mine, taken, cancelled):
        claim(ledger, job_id)
    ledger.cancel(cancelled)
    replies = emit(ledger, token(mine, 1, 1), token(taken, 9, 1), token(cancelled, 1, 1), token("none", 1, 1))
    assert replies == [Reply.OK, Reply.FENCED, Reply.CANCELLED, Reply.FENCED]
    assert [len(stream(ledger, job_id)) for job_id in (mine, taken, cancelled)] == [1, 0, 1]


def test_an_emit_renews_the_lease(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id, lease=0.05)
    before = int(ledger.client.hget(keys.job(job_id), "lease_ms") or 0)
    emit(ledger, Emission(job_id, 1))
    after = int(ledger.client.hget(keys.job(job_id), "lease_ms") or 0)
    assert after > before + 20_000
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) == after


def test_a_lost_lease_is_taken_over_behind_the_last_token(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id, owner="dead")
    emit(ledger, token(job_id, 1, 1), token(job_id, 1, 2))
    expire_lease(ledger, job_id)

    second = claim(ledger, job_id, owner="alive")
    assert (second.fence, second.attempt, second.crashes) == (2, 2, 1)
    assert (second.token_ids, second.text, second.last_seq) == ((101, 102), " t1 t2", 2)
    # The first owner wakes up, and can write nothing.
    assert emit(ledger, token(job_id, 1, 3)) == [Reply.FENCED]
    assert ledger.release(job_id, 1, "tiny").reply is Reply.FENCED
    assert emit(ledger, token(job_id, 2, 3)) == [Reply.OK]
    assert ledger.finish(done(second, 3)).reply is Reply.OK
    assert len(stream(ledger, job_id)) == 4


def test_release_puts_the_job_back_without_a_crash(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id)
    emit(ledger, token(job_id, 1, 1))
    assert ledger.release(job_id, 1, "tiny").reply is Reply.OK
    assert ledger.release(job_id, 1, "tiny").reply is Reply.OK
    view = ledger.view(job_id)
    assert (view.state, view.crashes) == (JobState.QUEUED, 0)
    assert emit(ledger, token(job_id, 1, 2)) == [Reply.FENCED]
    assert claim(ledger, job_id, owner="w2").token_ids == (101,)


def test_cancel_ends_a_waiting_job_at_once(ledger: Ledger) -> None:
    job_id = submit(ledger)
    assert ledger.cancel(job_id) is JobState.CANCELLED
    view = ledger.view(job_id)
    assert view.state is JobState.CANCELLED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "cancelled"
    assert ledger.cancel(job_id) is JobState.CANCELLED
    assert refused(ledger, job_id) is ClaimOutcome.TERMINAL
    assert len(stream(ledger, job_id)) == 1


def test_whoever_ends_a_job_that_nobody_runs_hears_of_it_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, JobState, str]] = []

    def closed(job_id: str, state: JobState, result: JobResult) -> None:
        assert result.error is not None
        heard.append((job_id, state, result.error.code))

    first, second = (Ledger(ledger.client, max_crashes=1, on_closed=closed) for _ in range(2))
    waits, runs, late, poison, damaged = (submit(ledger) for _ in range(5))
    call = first._store.call

    def without_replies(script: str, *args: Any) -> Any:
        """As a client does that repeats a command after a lost reply."""
        call(script, *args)
        return call(script, *args)

    monkeypatch.setattr(first._store, "call", without_replies)
    for cluster in (first, second):
        cluster.cancel(waits)
    claim(ledger, runs)
    first.cancel(runs)  # its worker ends it
    ledger.client.hset(keys.job(late), "deadline_ms", 1)
    look_now(ledger, late)
    claim(ledger, poison)
    ledger.client.hset(keys.job(poison), "alone", 1)
    expire_lease(ledger, poison)
    ledger.client.hset(keys.job(damaged), "lane", "")
    look_now(ledger, damaged)
    for cluster in (first, second):
        cluster.reap()
    assert heard == [
        (waits, JobState.CANCELLED, "cancelled"),
        *sorted(
            [
                (late, JobState.EXPIRED, "deadline_exceeded"),
                (poison, JobState.FAILED, "poison_job"),
                (damaged, JobState.FAILED, "internal_error"),
            ],
            key=lambda ended: ended[0],
        ),
    ]


def test_cancel_of_a_released_job_keeps_what_was_written(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id)
    emit(ledger, token(job_id, 1, 1), token(job_id, 1, 2))
    ledger.release(job_id, 1, "tiny")
    assert ledger.cancel(job_id) is JobState.CANCELLED
    result = ledger.view(job_id).result
    assert result is not None
    assert (result.text, result.token_ids, result.usage.completion_tokens) == (" t1 t2", (101, 102), 2)


def test_cancel_of_a_running_job_is_told_to_its_worker(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claimed = claim(ledger, job_id)
    assert ledger.cancel(job_id) is JobState.RUNNING
    assert ledger.view(job_id).cancel_requested
    assert emit(ledger, token(job_id, 1, 1)) == [Reply.CANCELLED]
    event = FailedEvent(seq=2, state=JobState.CANCELLED, error=ErrorInfo(code="cancelled", message="cancelled"))
    finish = Finish(job_id, claimed.fence, "tiny", event, (101,), " t1")
    assert ledger.finish(finish).reply is Reply.OK
    assert ledger.finish(finish).reply is Reply.OK  # the reply was lost, say
    assert len(stream(ledger, job_id)) == 2
    assert ledger.view(job_id).state is JobState.CANCELLED


def test_cancel_of_a_job_whose_worker_died_is_done_by_the_next_claim(ledger: Ledger) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id)
    ledger.cancel(job_id)
    expire_lease(ledger, job_id)
    assert refused(ledger, job_id) is ClaimOutcome.CANCELLED
    assert ledger.view(job_id).state is JobState.CANCELLED


def test_cancel_of_an_unknown_job(ledger: Ledger) -> None:
    with pytest.raises(JobNotFound):
        ledger.cancel("nope")


def test_a_deadline_that_passed_in_the_queue(ledger: Ledger) -> None:
    job_id = submit(ledger, deadline_seconds=0.01)
    time.sleep(0.03)
    assert refused(ledger, job_id) is ClaimOutcome.EXPIRED
    view = ledger.view(job_id)
    assert view.state is JobState.EXPIRED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "deadline_exceeded"


def test_the_claim_says_how_much_time_is_left(ledger: Ledger) -> None:
    assert claim(ledger, submit(ledger)).deadline_remaining_seconds is None
    left = claim(ledger, submit(ledger, deadline_seconds=60)).deadline_remaining_seconds
    assert left is not None
    assert 55 < left <= 60


def test_the_reaper_requeues_a_lost_lease_and_names_the_bell(ledger: Ledger) -> None:
    job_id = submit(ledger, tenant="acme", priority=3)
    claim(ledger, job_id)
    assert ledger.reap().bells == ()
    expire_lease(ledger, job_id)
    (bell,) = ledger.reap().bells
    assert (bell.job_id, bell.model, bell.number) == (job_id, "tiny", 2)
    view = ledger.view(job_id)
    assert (view.state, view.crashes) == (JobState.QUEUED, 1)
    assert ledger.reap().bells == ()


def test_the_reaper_ends_what_is_late_or_cancelled(ledger: Ledger) -> None:
    late = submit(ledger, deadline_seconds=0.01)
    cancelled = submit(ledger)
    ledger.client.hset(keys.job(cancelled), "cancel", 1)  # as if the API had died before it closed the job
    look_now(ledger, cancelled)
    time.sleep(0.03)
    assert set(ledger.reap().closed) == {late, cancelled}
    assert ledger.view(late).state is JobState.EXPIRED
    assert ledger.view(cancelled).state is JobState.CANCELLED


def test_lost_bells_are_rung_again_and_a_backlog_is_not(ledger: Ledger) -> None:
    first, second, third = (submit(ledger) for _ in range(3))
    ledger.client.hset(keys.MODELS, "tiny", "{}")
    ledger.client.lpush(keys.bells("tiny"), "bell of 1", "bell of 2", "bell of 3")
    assert look_for_bells(ledger) == []  # they wait their turn
    ledger.client.rpop(keys.bells("tiny"))
    claim(ledger, first)
    assert look_for_bells(ledger) == []  # one each
    ledger.client.rpop(keys.bells("tiny"))  # and nobody claims: that worker died
    assert look_for_bells(ledger) == [(second, 2)]  # it is next, whosever bell was lost
    ledger.client.delete(keys.bells("tiny"))
    assert look_for_bells(ledger) == [(second, 3), (third, 2)]


def test_lost_bells_are_rung_again_after_the_servers_clock_was_set_back(ledger: Ledger) -> None:
    job_id = submit(ledger)
    ledger.client.hset(keys.MODELS, "tiny", "{}")
    seconds, _ = ledger.client.time()
    ledger.client.hset(keys.lanes("tiny"), "short_ms", (seconds + 3600) * 1000)  # seen missing by the clock as it was
    assert look_for_bells(ledger) == [(job_id, 2)]


def test_one_reaper_at_a_time(ledger: Ledger) -> None:
    assert ledger.reaper_turn("a", seconds=30)
    assert not ledger.reaper_turn("b", seconds=30)
    assert 0 < int(ledger.client.pttl(keys.REAPER_MUTEX)) <= 30_000
    ledger.client.delete(keys.REAPER_MUTEX)  # as its end does
    assert ledger.reaper_turn("b", seconds=30)


def test_an_id_without_a_record_leaves_the_open_index(ledger: Ledger) -> None:
    look_now(ledger, "ghost")
    assert ledger.reap().bells == ()
    assert ledger.client.zcard(keys.OPEN_JOBS) == 0


def test_every_transition_is_published(ledger: Ledger) -> None:
    job_id = "watched"
    with closing(ledger.client.pubsub()) as pubsub:
        pubsub.subscribe(keys.channel(job_id))
        ledger.submit(request(), job_id=job_id)
        claimed = claim(ledger, job_id)
        progress = StateEvent(state=JobState.RUNNING, attempt=1, prefill_done=2, prefill_total=3)
        emit(ledger, Emission(job_id, 1, progress), token(job_id, 1, 1))
        ledger.finish(done(claimed, 1))
        heard = []
        while len(heard) < 5:
            message = pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is not None:
                heard.append(message["data"])
    events = [job_event_adapter.validate_json(data) for data in heard]
    assert [event.type for event in events] == ["state", "state", "state", "token", "done"]
    assert events[2] == progress
    assert heard[3:] == stream(ledger, job_id)  # the same bytes on both ways


def test_the_table_stops_a_script_that_would_break_it(ledger: Ledger) -> None:
    job_id = submit(ledger)
    script = ledger.client.register_script(
        script_text("cancel").split("-- Sets")[0] + "move(KEYS[1], KEYS[2], 0, 'succeeded', 'running')"
    )
    with pytest.raises(Exception, match="cannot go from succeeded to running"):
        script(keys=[keys.job(job_id), keys.lanes("tiny")])


def test_redis_away_is_one_error() -> None:
    with closing(connect("redis://127.0.0.1:1/0", timeout_seconds=0.2)) as client, pytest.raises(LedgerUnavailable):
        Ledger(client).submit(request())


def test_a_record_and_a_stream_that_disagree_end_the_job(ledger: Ledger) -> None:
    job_id = submit(ledger)
    ledger.client.hset(keys.job(job_id), "seq", 3)
    assert refused(ledger, job_id) is ClaimOutcome.DAMAGED
    result = ledger.view(job_id).result
    assert result is not None
    assert result.error is not None
    assert "3 tokens, 0 of them can be read" in result.error.message


@pytest.mark.parametrize("left", [[], [1], [1, 2]])
def test_a_job_whose_stream_was_lost_still_ends(ledger: Ledger, left: list[int]) -> None:
    job_id = submit(ledger)
    claim(ledger, job_id)
    emit(ledger, *(token(job_id, 1, seq) for seq in (1, 2, 3)))
    ledger.client.xdel(keys.events(job_id), *(f"{seq}-0" for seq in (1, 2, 3) if seq not in left))
    expire_lease(ledger, job_id)
    ledger.client.hset(keys.job(job_id), mapping={"crashes": 3, "alone": 1})
    assert ledger.reap().closed == (job_id,)
    view = ledger.view(job_id)
    assert view.state is JobState.FAILED
    assert view.result is not None
    assert view.result.token_ids == tuple(100 + seq for seq in left)
    assert job_event_adapter.validate_json(stream(ledger, job_id)[-1]).type == "failed"
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) is None


def test_a_record_that_cannot_be_looked_at_stops_nobody_else(ledger: Ledger) -> None:
    broken, late, lost = submit(ledger), submit(ledger), submit(ledger)
    ledger.client.hset(keys.job(broken), "lane", "not a number")
    ledger.client.hset(keys.job(late), "deadline_ms", 1)
    claim(ledger, lost)
    ledger.client.hset(keys.job(lost), "lease_ms", 1)
    for job_id in (broken, late, lost):
        look_now(ledger, job_id)
    reaped = ledger.reap()
    assert [(job.job_id, job.reason) for job in reaped.broken] == [
        (broken, "the field 'lane' is not that of its priority and tenant")
    ]
    assert reaped.closed == (late,)
    assert [bell.job_id for bell in reaped.bells] == [lost]
    assert reaped.n_jobs == 3
    assert ledger.reap().n_jobs == 0
    assert ledger.view(broken).state is JobState.FAILED


def test_a_job_that_meets_a_bug_of_ours_is_put_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(ledger)
    look_now(ledger, job_id)
    monkeypatch.setitem(ledger._store.scripts, "look", lambda **_: 1 / 0)
    assert [(job.job_id, job.reason) for job in ledger.reap().broken] == [(job_id, "ZeroDivisionError")]
    assert ledger.reap().n_jobs == 0
    assert ledger.view(job_id).state is JobState.QUEUED
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) is not None


def test_a_job_that_is_given_back_keeps_its_deadline_and_its_cancel(ledger: Ledger) -> None:
    late, unwanted = submit(ledger, deadline_seconds=0.2), submit(ledger)
    fences = [claim(ledger, job_id).fence for job_id in (late, unwanted)]
    ledger.cancel(unwanted)
    for job_id, fence in zip((late, unwanted), fences, strict=True):
        ledger.release(job_id, fence, "tiny")
    time.sleep(0.25)
    ledger.reap()
    assert (ledger.view(late).state, ledger.view(unwanted).state) == (JobState.EXPIRED, JobState.CANCELLED)


def test_a_lost_lease_is_noticed_behind_a_long_backlog(ledger: Ledger) -> None:
    lost = submit(ledger)
    claim(ledger, lost)
    for _ in range(150):
        submit(ledger)
    for job_id in ledger.client.zrange(keys.OPEN_JOBS, 0, -1):
        ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    expire_lease(ledger, lost)
    turns = 0
    while ledger.reap().n_due:
        turns += 1
    assert turns == 2
    assert ledger.view(lost).crashes == 1


def test_nothing_waits_for_memory_to_be_healed(ledger: Ledger) -> None:
    lost = submit(ledger)
    claim(ledger, lost)
    ledger.reap()
    expire_lease(ledger, lost)
    before = ledger.client.config_get("maxmemory")["maxmemory"]
    ledger.client.config_set("maxmemory", 1)
    try:
        assert ledger.reaper_turn("w", seconds=1)
        ledger.reap()
        assert isinstance(ledger.claim(lost, "w", lease_seconds=5), Claim)
    finally:
        ledger.client.config_set("maxmemory", before)
