"""A timeline from a record: what Redis wrote, what workers measured, and how the two meet."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from woolly_worker.contract.errors import InternalError, JobNotFound
from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, Usage
from woolly_worker.contract.timeline import AttemptEnd, MeasuredPart, PartKind, StallCause, Timeline
from woolly_worker.ledger import clocks, keys
from woolly_worker.ledger.clocks import Clock, Measured
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Claim, Emission, Finish, Reply
from woolly_worker.ledger.timelines import timeline_of

LEASE = 30.0
DECODE = MeasuredPart(kind=PartKind.DECODE, seconds=0.2, n_tokens=2, n_steps=2)


def claimed(ledger: Ledger, job_id: str = "j", *, lease: float = LEASE, **changes: Any) -> Claim:
    ledger.submit(JobRequest(model="tiny", prompt="x", **changes), job_id=job_id)
    return claimed_again(ledger, job_id, lease=lease)


def claimed_again(ledger: Ledger, job_id: str = "j", *, lease: float = LEASE) -> Claim:
    claim = ledger.claim(job_id, "w", lease_seconds=lease)
    assert isinstance(claim, Claim)
    return claim


def emit(ledger: Ledger, claim: Claim, *seqs: int, lease: float = LEASE) -> None:
    tokens = [Emission(claim.job_id, claim.fence, TokenEvent(seq=s, token_id=s, text="t")) for s in seqs]
    assert ledger.emit(tokens, lease_seconds=lease) == [Reply.OK] * len(seqs)


def finish(claim: Claim, n_tokens: int, measured: Measured | None = None) -> Finish:
    event = DoneEvent(seq=n_tokens + 1, finish_reason="stop", usage=Usage(), metrics=JobMetrics())
    return Finish(claim.job_id, claim.fence, "tiny", event, tuple(range(n_tokens)), "t" * n_tokens, measured)


def measured_now(claim: Claim, *parts: MeasuredPart) -> Measured:
    """As if the engine had had the job for as long as these parts, until now."""
    now = time.monotonic()
    return Measured(claim.clock.ms_at(now - sum(part.seconds for part in parts)), now, parts)


def told(ledger: Ledger, job_id: str = "j") -> Timeline:
    async def read() -> Timeline:
        kwargs = ledger.client.connection_pool.connection_kwargs
        client = connect_async(f"redis://{kwargs['host']}:{kwargs['port']}/0")
        try:
            return await LedgerReader(client).timeline(job_id)
        finally:
            await client.aclose()

    return asyncio.run(read())


def said(timeline: Timeline) -> list[tuple[str, int]]:
    return [(part.kind.value, part.attempt) for part in timeline.parts]


def check_sum(timeline: Timeline) -> None:
    """The parts follow each other, and with the rest that is named they are the whole."""
    whole = sum(part.seconds for part in timeline.parts) + timeline.unattributed_seconds
    assert whole == pytest.approx(timeline.seconds, abs=1e-6)
    for part, following in zip(timeline.parts, timeline.parts[1:], strict=False):
        assert part.start_seconds <= following.start_seconds + 0.05


def test_a_job_with_one_attempt(ledger: Ledger) -> None:
    claim = claimed(ledger)
    emit(ledger, claim, 1, 2)
    time.sleep(0.25)
    assert ledger.finish(finish(claim, 2, measured_now(claim, DECODE))).reply is Reply.OK
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("starting", 1), ("decode", 1), ("writing", 1)]
    assert dict(timeline.parts[2]) == {**dict(DECODE), "attempt": 1, "start_seconds": timeline.parts[2].start_seconds}
    assert timeline.parts[2].start_seconds == pytest.approx(sum(p.seconds for p in timeline.parts[:2]), abs=0.05)
    (attempt,) = timeline.attempts
    assert (attempt.worker_id, attempt.end, attempt.ended_seconds) == ("w", AttemptEnd.ENDED, timeline.seconds)
    check_sum(timeline)


def test_a_repeated_finish_and_release_leave_one_line(ledger: Ledger) -> None:
    claim = claimed(ledger)
    time.sleep(0.2)
    for _ in range(2):
        assert ledger.release("j", claim.fence, "tiny", measured_now(claim, DECODE)).reply is Reply.OK
    again = claimed_again(ledger)
    time.sleep(0.2)
    for _ in range(2):
        assert ledger.finish(finish(again, 0, measured_now(again, DECODE))).reply is Reply.OK
    timeline = told(ledger)
    one = ["starting", "decode", "writing"]
    assert said(timeline) == [("queued", 0), *((k, 1) for k in one), ("queued", 1), *((k, 2) for k in one)]
    assert [attempt.end for attempt in timeline.attempts] == [AttemptEnd.RELEASED, AttemptEnd.ENDED]
    check_sum(timeline)


def test_a_lost_worker_leaves_its_signs_of_life(ledger: Ledger) -> None:
    claim = claimed(ledger, lease=0.2)
    time.sleep(0.1)
    emit(ledger, claim, 1, 2, 3, lease=0.2)
    time.sleep(0.3)
    assert [bell.job_id for bell in ledger.reap().bells] == ["j"]
    again = claimed_again(ledger)
    emit(ledger, again, 4)
    assert ledger.finish(finish(again, 4)).reply is Reply.OK
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("running", 1), ("lost", 1), ("queued", 1), ("running", 2)]
    running, lost, last = timeline.parts[1], timeline.parts[2], timeline.parts[4]
    assert running.seconds >= 0.1
    assert lost.seconds >= 0.2
    assert (running.n_tokens, last.n_tokens) == (3, 1)
    assert [attempt.end for attempt in timeline.attempts] == [AttemptEnd.LOST, AttemptEnd.ENDED]
    assert timeline.unattributed_seconds == 0  # all of it by Redis's clock
    check_sum(timeline)


def test_a_worker_that_is_not_heard_stalls_its_job(ledger: Ledger) -> None:
    # Given a job with three tokens, the last one ten seconds ago, and a lease that has not run out yet
    claim = claimed(ledger)
    emit(ledger, claim, 1, 2, 3)
    assert said(told(ledger)) == [("queued", 0), ("running", 1)]
    record = keys.job("j")
    for name in ("created_ms", "claimed_ms", "lease_ms"):
        ledger.client.hincrby(record, name, -20_000)
    # Then what is known ends with the last sign of life
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("running", 1), ("stall", 1)]
    running, stall = timeline.parts[1:]
    assert (running.n_tokens, stall.cause) == (3, StallCause.SILENT)
    assert running.seconds < 20 <= stall.seconds
    check_sum(timeline)
    # And once the loss is noticed, the same time is lost
    ledger.client.hset(record, "lease_ms", int(ledger.client.hget(record, "lease_ms") or 0) - 20_000)
    ledger.client.zadd(keys.OPEN_JOBS, {"j": 1})
    ledger.reap()
    assert said(told(ledger)) == [("queued", 0), ("running", 1), ("lost", 1), ("queued", 1)]


def test_a_lease_that_was_ended_for_a_dead_worker_hides_no_sign_of_life(ledger: Ledger) -> None:
    # Given a worker that said something five seconds after its claim, and died at once
    claim = claimed(ledger)
    for name in ("created_ms", "claimed_ms"):
        ledger.client.hincrby(keys.job("j"), name, -5_000)
    emit(ledger, claim, 1, 2)
    assert Deaths(ledger.client).certify("w", signal="SIGKILL", exit_code=None, out_of_memory=None) == ["j"]
    # Then it was running until then, before its loss is noticed and afterwards
    running = [part for part in told(ledger).parts if part.kind is PartKind.RUNNING]
    assert [part.seconds >= 5 for part in running] == [True]
    ledger.reap()
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("running", 1), ("lost", 1), ("queued", 1)]
    assert timeline.parts[1].seconds >= 5
    check_sum(timeline)


def test_what_was_measured_fits_into_whole_milliseconds() -> None:
    """Redis recorded the end at 1300.9 ms and wrote 1300; the worker's clock saw it at 1300.7."""
    attempt = {"attempt": 1, "owner": "w", "claimed_ms": 1010, "alive_ms": 1300, "ended_ms": 1300, "seq": 2}
    decode = {"kind": "decode", "seconds": 0.2883}
    recorded = {"began_ms": 1012.4, "ended_ms": 1300.7, "parts": [decode]}
    line = json.dumps({**attempt, "end": "ended"}) + "\t" + json.dumps(recorded) + "\n"
    timeline = timeline_of("j", ["1000", "1010", "1300", "1", "2", "", "0", "30000", line], 1300)
    assert [part.seconds for part in timeline.parts] == pytest.approx([0.01, 0.0017, 0.2883, 0.0])
    assert timeline.unattributed_seconds == 0
    check_sum(timeline)


def test_open_jobs_have_one_until_now(ledger: Ledger) -> None:
    ledger.submit(JobRequest(model="tiny", prompt="x"), job_id="j")
    time.sleep(0.05)
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0)]
    assert timeline.seconds >= 0.05
    assert timeline.attempts == ()
    emit(ledger, claimed_again(ledger), 1)
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("running", 1)]
    assert timeline.parts[1].n_tokens == 1
    (attempt,) = timeline.attempts
    assert (attempt.worker_id, attempt.end, attempt.ended_seconds) == ("w", None, None)
    check_sum(timeline)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_job_that_ended_in_the_queue_waited(ledger: Ledger, how: str) -> None:
    job_id = ledger.submit(JobRequest(model="tiny", prompt="x", deadline_seconds=0.05)).job_id
    if how == "cancelled":
        time.sleep(0.005)  # within one millisecond it has waited for none
        ledger.cancel(job_id)
    else:
        time.sleep(0.1)
        assert ledger.reap().closed == (job_id,)
    assert ledger.view(job_id).state == how
    timeline = told(ledger, job_id)
    assert said(timeline) == [("queued", 0)]
    assert (timeline.parts[0].seconds, timeline.unattributed_seconds) == (timeline.seconds, 0)


def test_a_job_given_back_very_often_keeps_a_small_record(ledger: Ledger) -> None:
    parts = [DECODE.model_copy(update={"seconds": 0.001 * i}) for i in range(50)]
    claim = claimed(ledger)
    for _ in range(60):
        assert ledger.release("j", claim.fence, "tiny", measured_now(claim, *parts)).reply is Reply.OK
        claim = claimed_again(ledger)
    assert ledger.client.hstrlen(keys.job("j"), "timeline") < 80_000
    timeline = told(ledger)
    assert len(timeline.attempts) == 61
    assert ("decode", 1) in said(timeline)
    assert said(timeline)[-3:] == [("running", 60), ("queued", 60), ("running", 61)]


def test_a_worker_that_names_itself_in_json(ledger: Ledger) -> None:
    ledger.submit(JobRequest(model="tiny", prompt="x"), job_id="j")
    claim = ledger.claim("j", 'a "worker"\t\n', lease_seconds=LEASE)
    assert isinstance(claim, Claim)
    ledger.finish(finish(claim, 0))
    timeline = told(ledger)
    assert timeline.attempts[0].worker_id == 'a "worker"\t\n'


def test_a_job_of_a_version_that_told_no_timelines(ledger: Ledger) -> None:
    claim = claimed(ledger)
    emit(ledger, claim, 1)
    ledger.finish(finish(claim, 1))
    ledger.client.hdel(keys.job("j"), "timeline", "lease_for_ms")
    timeline = told(ledger)
    assert said(timeline) == [("queued", 0), ("running", 1)]
    check_sum(timeline)


def test_a_timeline_that_cannot_be_read_is_our_bug(ledger: Ledger) -> None:
    claim = claimed(ledger)
    ledger.finish(finish(claim, 0))
    ledger.client.hset(keys.job("j"), "timeline", '{"attempt": "what?"}\n')
    with pytest.raises(InternalError, match="the recorded timeline of job 'j' cannot be read"):
        told(ledger)


def test_an_unknown_job_has_none(ledger: Ledger) -> None:
    with pytest.raises(JobNotFound):
        told(ledger, "never")


class Stub:
    """A server whose answers take so long, by a clock that stands still otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, delays: Sequence[float]) -> None:
        self.now, self.delays = 100.0, list(delays)
        monkeypatch.setattr(clocks.time, "monotonic", lambda: self.now)

    def time(self) -> tuple[int, int]:
        self.now += self.delays.pop(0)
        return 5, 250_000


def test_a_slow_look_at_the_clock_is_repeated_and_the_quickest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Stub(monkeypatch, [0.5, 0.1, 0.3])
    assert clocks.look(server) == Clock(5250.0, pytest.approx(100.55))
    server = Stub(monkeypatch, [0.001])
    clock = clocks.look(server)
    assert clock.ms_at(101.0005) == pytest.approx(6250.0)
