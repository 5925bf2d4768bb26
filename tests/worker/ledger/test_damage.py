"""Records, streams and indexes that others have written into: each job ends, and no other notices."""

import contextlib
import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from woolly_worker.contract.errors import InternalError, InvalidRequest, JobNotFound
from woolly_worker.contract.events import FailedEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import JobRequest, JobView
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.checks import FIELDS, LATER_NUMBERS
from woolly_worker.ledger.foreign import foreign
from woolly_worker.ledger.ledger import ASIDE_LOOK_MS, Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry, WorkerBeat
from woolly_worker.ledger.records import Claim, ClaimOutcome, Emission, Refusal, Reply

NOT_THERE_YET = (*LATER_NUMBERS, "alone", "abandoned", "once", "history")
PROMPT = "the prompt that nobody may log"
LEASE = 30.0
CARD = ModelCard(name="tiny", architecture="llama", n_ctx=8)


def submit(ledger: Ledger, job_id: str | None = None) -> str:
    return ledger.submit(JobRequest(model="tiny", prompt=PROMPT, metadata={"a": "b"}), job_id=job_id).job_id


def claim(ledger: Ledger, job_id: str) -> Claim:
    claimed = ledger.claim(job_id, "w1", lease_seconds=LEASE)
    assert isinstance(claimed, Claim), claimed
    return claimed


def token(claimed: Claim, seq: int) -> Emission:
    return Emission(claimed.job_id, claimed.fence, TokenEvent(seq=seq, token_id=100 + seq, text=f" t{seq}"))


def emit(ledger: Ledger, *emissions: Emission) -> list[Reply]:
    return ledger.emit(emissions, lease_seconds=LEASE)


def failed(ledger: Ledger, job_id: str) -> JobView:
    """The job as it has ended: failed, with a stream whose last event says so, and in no index of open jobs."""
    view = ledger.view(job_id)
    assert view.state is JobState.FAILED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "internal_error"
    assert PROMPT not in view.model_dump_json()
    entries = ledger.client.xrange(keys.events(job_id))
    assert [entry for entry, _ in entries] == [f"{seq}-0" for seq in range(1, view.last_seq + 2)]
    assert isinstance(job_event_adapter.validate_json(entries[-1][1]["e"]), FailedEvent)
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) is None
    assert ledger.client.pttl(keys.job(job_id)) > 0
    return view


@pytest.mark.parametrize("field", [*(field for field in FIELDS if field not in NOT_THERE_YET), "request"])
@pytest.mark.parametrize("by_bell", [True, False])
def test_a_field_that_is_missing_ends_the_job(ledger: Ledger, field: str, by_bell: bool) -> None:
    ModelRegistry(ledger.client).announce(CARD)
    job_id, another = submit(ledger), submit(ledger)
    ledger.client.hdel(keys.job(job_id), field)
    if by_bell or field == "request":  # which only a worker reads
        assert ledger.claim(job_id, "w1", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.DAMAGED)
    else:
        ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
        assert [job.job_id for job in ledger.reap().broken] == [job_id]
    assert f"the field '{field}' is missing" in str(failed(ledger, job_id).result)
    assert ledger.view(another).state is JobState.QUEUED
    assert ledger.next_job("tiny") == another  # the lanes tell whether a job waited, and with which model
    counts = ledger.lane_counts("tiny")
    assert (counts.queued, counts.queued_tokens) == (1, int(ledger.client.hget(keys.job(another), "cost") or 0))


nonsense = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "7",
        "1e400",
        "nan",
        "9" * 30,
        "99999999999999",
        "x",
        "{",
        "[1]",
        '{"a": 1}',
        "running",
        "queued",
        "\n",
    ]
)
numbered = itertools.count()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), st.none() | nonsense | st.text(max_size=5), max_size=3),
    claimed_first=st.booleans(),
    steps=st.lists(
        st.sampled_from(
            ["claim", "claim alone", "next", "reap", "emit", "company", "strand", "cancel", "release", "view"]
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_whatever_a_record_says_nothing_breaks_and_the_job_ends(
    ledger: Ledger, changes: dict[str, str | None], claimed_first: bool, steps: list[str]
) -> None:
    ledger.client.flushall()
    number = next(numbered)
    job_id, another = submit(ledger, f"job{number}"), submit(ledger, f"another{number}")
    fence = 0
    if claimed_first:
        held, other = claim(ledger, job_id), claim(ledger, another)
        fence = held.fence
        emit(ledger, token(held, 1), token(other, 1))
    for field, value in changes.items():
        if value is None:
            ledger.client.hdel(keys.job(job_id), field)
        else:
            ledger.client.hset(keys.job(job_id), field, value.encode("utf-8", "replace"))
    for step in steps:
        if step == "claim":
            ledger.claim(job_id, "w2", lease_seconds=LEASE)
        elif step == "claim alone":
            ledger.claim(job_id, "w2", lease_seconds=LEASE, alone=True)
        elif step == "reap":
            ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1}, xx=True)
            ledger.reap()
        elif step == "emit" and claimed_first:
            event = TokenEvent(seq=2, token_id=1, text="x")
            replies = emit(ledger, Emission(job_id, fence, event), Emission(another, other.fence))
            assert replies[1] is Reply.OK
            if replies[0] is Reply.DAMAGED:
                ledger.end_damaged(job_id)
        elif step == "next":
            ledger.next_job("tiny")
        elif step == "company":
            ledger.end_probation(job_id, fence, lease_seconds=LEASE)
        elif step == "strand":
            ledger.strand(job_id, ())
        elif step == "release":
            ledger.release(job_id, fence, "tiny")
        elif step == "cancel":
            with contextlib.suppress(JobNotFound):
                ledger.cancel(job_id)
        elif step == "view":
            with contextlib.suppress(JobNotFound, InternalError):
                ledger.view(job_id)
    # Whoever comes next either takes the job or ends it.
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1}, xx=True)
    ledger.reap()
    answer = ledger.claim(job_id, "w3", lease_seconds=LEASE, alone=True)
    if isinstance(answer, Refusal) and answer.outcome not in (ClaimOutcome.BUSY, ClaimOutcome.NEWER):
        assert ledger.client.hget(keys.job(job_id), "state") in (*TERMINAL_STATES, None)
    assert ledger.view(another).state in (JobState.QUEUED, JobState.RUNNING)


def test_a_record_that_is_no_hash_is_set_aside(ledger: Ledger) -> None:
    job_id, another = submit(ledger), submit(ledger)
    ledger.client.set(keys.job(job_id), "hello")
    assert ledger.claim(job_id, "w1", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.DAMAGED)
    assert ledger.client.get("woolly:aside:" + keys.job(job_id)) == "hello"
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) is None
    with pytest.raises(JobNotFound):
        ledger.view(job_id)
    claim(ledger, another)


@pytest.mark.parametrize("foreigner", ["later id", "no event", "no stream", "gap"])
def test_a_stream_that_others_wrote_to_fails_its_job_and_no_other_of_the_batch(ledger: Ledger, foreigner: str) -> None:
    job_id, another = submit(ledger), submit(ledger)
    held, other = claim(ledger, job_id), claim(ledger, another)
    assert emit(ledger, token(held, 1), token(other, 1)) == [Reply.OK, Reply.OK]
    stream = keys.events(job_id)
    if foreigner == "later id":
        ledger.client.xadd(stream, {"hello": "world"})
    elif foreigner == "no event":
        ledger.client.xadd(stream, {"e": "not JSON"}, id="2-0")
    elif foreigner == "no stream":
        ledger.client.set(stream, "hello")
    else:
        ledger.client.xdel(stream, "1-0")
        ledger.client.xadd(stream, {"e": "{}"}, id="3-0")
    assert emit(ledger, token(held, 2), token(other, 2)) == [Reply.DAMAGED, Reply.OK]
    assert ledger.end_damaged(job_id) is not None
    kept = 0 if foreigner in ("no stream", "gap") else 1
    result = failed(ledger, job_id).result
    assert result is not None
    assert result.token_ids == (101,)[:kept]
    assert ledger.lane_counts("tiny").running == 1
    assert emit(ledger, token(held, 2), token(other, 3)) == [Reply.FENCED, Reply.OK]


def test_a_good_job_is_never_taken_for_a_damaged_one(ledger: Ledger) -> None:
    job_id = submit(ledger)
    assert ledger.end_damaged(job_id) is None
    held = claim(ledger, job_id)
    emit(ledger, *(token(held, seq) for seq in range(1, 6)))
    assert ledger.end_damaged(job_id) is None
    ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    assert len(ledger.reap().bells) == 1
    assert ledger.end_damaged(job_id) is None
    assert ledger.cancel(job_id) is JobState.CANCELLED
    assert ledger.end_damaged(job_id) is None


@pytest.mark.parametrize("job_id", ["", "a:events", "*", "a b", "a\nb", "x" * 65, "j\x00"])
def test_an_id_of_another_shape_is_none(ledger: Ledger, job_id: str) -> None:
    assert ledger.claim(job_id, "w1", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.GONE)
    if job_id:
        with pytest.raises(InvalidRequest, match="a job's id"):
            submit(ledger, job_id)


def test_foreign_members_leave_the_open_index_and_touch_no_job(ledger: Ledger) -> None:
    job_id = submit(ledger)
    emit(ledger, token(claim(ledger, job_id), 1))
    members = [f"{job_id}:events", "*", "x" * 10_000, "a\nb", "gone"]
    ledger.client.zadd(keys.OPEN_JOBS, dict.fromkeys(members, 1))
    assert ledger.reap().broken == ()
    assert ledger.client.zrange(keys.OPEN_JOBS, 0, -1) == [job_id]
    assert ledger.client.xlen(keys.events(job_id)) == 1


def test_records_that_vanish_leave_nothing_in_the_gauges(ledger: Ledger) -> None:
    def gauges() -> tuple[int, int, int]:
        counts = ledger.lane_counts("tiny")
        return counts.queued, counts.queued_tokens, counts.running

    def cost(job_id: str) -> int:
        return int(ledger.client.hget(keys.job(job_id), "cost") or 0)

    ModelRegistry(ledger.client).announce(CARD)
    long = JobRequest(model="tiny", prompt=PROMPT * 100)
    first, second, running, aside = ledger.submit(long).job_id, submit(ledger), submit(ledger), submit(ledger)
    claim(ledger, running)
    costs = cost(first) + 2 * cost(second)
    assert gauges() == (3, costs, 1)
    # given: a record that is gone counts as much as the others, until it is known that nobody is left
    ledger.client.delete(keys.job(first))
    assert ledger.next_job("tiny") == second
    assert gauges() == (2, costs - costs // 3, 1)
    # when: all others go as well, one of them while it was put aside
    assert ledger.next_job("tiny", passing=second) == aside
    ledger.client.delete(*map(keys.job, (second, running, aside)))
    assert ledger.next_job("tiny") is None
    ledger.client.zadd(keys.OPEN_JOBS, dict.fromkeys((first, second, running, aside), 1), xx=True)
    # then: one turn of a reaper finds that nobody is there, and the next one says so
    for _ in range(2):
        ledger.reap()
    assert gauges() == (0, 0, 0)


def test_records_that_vanish_leave_nothing_in_the_queued_gauges_while_others_work(ledger: Ledger) -> None:
    def gauges() -> tuple[int, int]:
        counts = ledger.lane_counts("tiny")
        return counts.queued, counts.queued_tokens

    def wait_long() -> None:
        """As if everything since the last turn had been two minutes earlier."""
        ledger.client.hincrby(keys.lanes("tiny"), "idle_ms", -2 * ASIDE_LOOK_MS)

    ModelRegistry(ledger.client).announce(CARD)
    ledger.submit(JobRequest(model="busy", prompt=PROMPT))
    gone, aside = submit(ledger), submit(ledger)
    ledger.client.delete(keys.job(gone))
    ledger.client.zrem(f"{keys.lanes('tiny')}#5#default", gone)
    ledger.client.zrem(keys.OPEN_JOBS, gone)
    wrong = gauges()
    # given: a job that is put aside counts
    ledger.reap()
    assert ledger.next_job("tiny", passing=aside) is None
    ledger.reap()
    assert gauges() == wrong
    # when: nobody has been in a lane for as long as one is put aside at most
    wait_long()
    ledger.reap()
    # then
    assert gauges() == (0, 0)
    # and: should one come back later, it counts and gets its bell
    ledger.client.zadd(keys.OPEN_JOBS, {aside: 1})
    ledger.reap()
    assert gauges()[0] == 1
    ledger.reap()
    ledger.client.hincrby(keys.lanes("tiny"), "short_ms", -10_000)
    assert aside in [bell.job_id for bell in ledger.reap().bells]


def test_the_time_without_waiting_jobs_begins_anew_with_one_that_is_put_aside(ledger: Ledger) -> None:
    ModelRegistry(ledger.client).announce(CARD)
    job_id = submit(ledger)
    ledger.client.hset(keys.lanes("tiny"), "idle_ms", 1)
    assert ledger.next_job("tiny", passing=job_id) is None
    ledger.reap()
    assert ledger.lane_counts("tiny").queued == 1


def test_names_of_ours_with_a_foreign_type_are_set_aside_by_a_reaper(ledger: Ledger) -> None:
    ModelRegistry(ledger.client).announce(CARD)
    submit(ledger)
    lane, round_ = f"{keys.lanes('tiny')}#5#default", keys.round_of("tiny")
    assert [ledger.client.type(name) for name in (lane, round_)] == ["zset", "zset"]
    told = foreign.counts["key"]
    ledger.client.set(lane, "hello")
    ledger.reap()  # the round still says which lanes there are
    ours = {name: kind for name, kind in keys.types(["tiny"]).items() if name != keys.MODELS}
    for name, kind in ours.items():
        ledger.client.delete(name)
        if kind == "string":
            ledger.client.lpush(name, "hello")
        else:
            ledger.client.set(name, "hello")
    ledger.reap()
    for name in (lane, *ours):
        assert 0 < ledger.client.ttl("woolly:aside:" + name) <= 24 * 3600
    assert foreign.counts["key"] == told + 1 + len(ours)
    claim(ledger, submit(ledger))


def test_a_mutex_that_nobody_will_give_back_is_removed(ledger: Ledger) -> None:
    ledger.client.set(keys.REAPER_MUTEX, "somebody")
    assert not ledger.reaper_turn("w1", seconds=5)
    assert ledger.reaper_turn("w1", seconds=5)
    assert not ledger.reaper_turn("w2", seconds=5)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '"x"', "{}", '{"name": 1}', "[" * 10_000])
def test_heartbeats_and_cards_that_are_none_are_read_past(
    ledger: Ledger, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = ModelRegistry(ledger.client)
    registry.announce(ModelCard(name="good", architecture="llama", n_ctx=8))
    registry.beat(WorkerBeat(worker_id="w1", model="good", hostname="h", pid=1))
    name = f"bad{time.monotonic_ns()}"
    ledger.client.hset(keys.MODELS, name, text)
    ledger.client.set(keys.worker(name), text)
    ledger.client.zadd(keys.WORKERS, {name: 1, "never": 2})
    for _ in range(3):
        assert [card.name for card in registry.cards()] == ["good"]
        assert [beat.worker_id for beat in registry.workers()] == ["w1"]
    assert caplog.text.count(name) == 2  # once each, however often they are read


def test_a_request_of_a_newer_program_waits_for_a_newer_worker(ledger: Ledger) -> None:
    job_id = submit(ledger)
    ledger.client.hset(keys.job(job_id), "version", keys.RECORD_VERSION + 1)
    assert ledger.claim(job_id, "w1", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.NEWER)
    view = ledger.view(job_id)
    assert (view.state, view.attempts) == (JobState.QUEUED, 0)
    assert ledger.next_job("tiny", passing=job_id) is None  # it holds up nobody
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    ledger.reap()
    assert ledger.next_job("tiny") == job_id
    assert ledger.cancel(job_id) is JobState.CANCELLED
