"""The recorder: parts without a gap, bounded, and the engine's way of telling it what happens."""

import time
from collections import Counter
from typing import Any

import pytest
from fakes import Rig, make_request, make_rig

from woolly_worker.contract.timeline import MeasuredPart, PartKind, StallCause
from woolly_worker.engine.events import EngineEvent, SequenceReleased
from woolly_worker.engine.sequence import Sequence
from woolly_worker.engine.timeline import MAX_PARTS, SequenceTimes, TimelineRecorder
from woolly_worker.memory.kv_cache import BLOCK_TOKENS


def times_of(rig: Rig, job_id: str = "job", fence: int = 1) -> SequenceTimes:
    end = rig.outcome(job_id, fence).end
    assert end is not None
    return end.times


def said(times: SequenceTimes) -> list[str]:
    return [part.kind.value if part.cause is None else part.cause.value for part in times.parts]


def check_sum(times: SequenceTimes) -> None:
    """To what rounding leaves: nothing is missing, nothing counted twice."""
    assert sum(part.seconds for part in times.parts) == pytest.approx(times.ended_at - times.began_at, abs=1e-4)


def total(times: SequenceTimes, kind: PartKind) -> int:
    return sum(part.n_tokens or 0 for part in times.parts if part.kind is kind)


def test_parts_follow_each_other_without_a_gap() -> None:
    recorder = TimelineRecorder(10.0)
    recorder.unseated(10.5)
    recorder.admitted(11.0, 32)
    recorder.computed(100, 1, False, 11.0)
    recorder.computed(50, 3, False, 13.0)
    for i in range(4):
        recorder.computed(1, 2 + i % 2, True, 14.0 + i)
    recorder.stalled(StallCause.REDIS, 18.5)
    recorder.stalled(StallCause.REDIS, 19.0)
    recorder.computed(1, 2, True, 20.0)
    recorder.unseated(21.0)
    recorder.unseated(22.0)
    recorder.admitted(25.0, 0)
    recorder.stalled(StallCause.OTHERS, 25.0)
    recorder.computed(150, 1, False, 26.0)
    times = recorder.times(28.0)
    assert (times.began_at, times.ended_at) == (10.0, 28.0)
    assert times.parts == (
        MeasuredPart(kind=PartKind.ADMISSION, seconds=1),
        MeasuredPart(kind=PartKind.CACHE_HIT, seconds=0, n_tokens=32),
        MeasuredPart(kind=PartKind.PREFILL, seconds=2, n_tokens=100, n_steps=1, batch_size_mean=1),
        MeasuredPart(kind=PartKind.PREFILL, seconds=1, n_tokens=50, n_steps=1, batch_size_mean=3),
        MeasuredPart(kind=PartKind.DECODE, seconds=4.5, n_tokens=4, n_steps=4, batch_size_mean=2.5),
        MeasuredPart(kind=PartKind.STALL, cause=StallCause.REDIS, seconds=1.5),
        MeasuredPart(kind=PartKind.DECODE, seconds=1, n_tokens=1, n_steps=1, batch_size_mean=2),
        MeasuredPart(kind=PartKind.STALL, cause=StallCause.PREEMPTED, seconds=4),
        MeasuredPart(kind=PartKind.STALL, cause=StallCause.OTHERS, seconds=1),
        MeasuredPart(kind=PartKind.PREFILL, seconds=2, n_tokens=150, n_steps=1, batch_size_mean=1),
    )


def test_very_many_parts_are_added_up_and_nothing_is_lost() -> None:
    recorder, now = TimelineRecorder(0.0), 1.0
    recorder.admitted(now, 0)
    for _ in range(1000):
        recorder.computed(8, 1, False, now)
        recorder.computed(1, 1, True, now + 1)
        recorder.stalled(StallCause.REDIS, now + 3)
        now += 6
    times = recorder.times(now)
    assert len(times.parts) <= MAX_PARTS + 3
    check_sum(times)
    assert (total(times, PartKind.PREFILL), total(times, PartKind.DECODE)) == (8000, 1000)
    n_parts = Counter[str]()
    for part, name in zip(times.parts, said(times), strict=True):
        n_parts[name] += part.n_merged
    assert n_parts == {"admission": 1, "prefill": 1000, "decode": 1000, "redis": 1000}
    assert sum(len(part.model_dump_json(exclude_defaults=True)) for part in times.parts) < 6000


def test_a_chunked_prompt_and_its_cached_twin() -> None:
    rig = make_rig(max_step_tokens=32)
    prompt = [3 + i % 100 for i in range(4 * BLOCK_TOKENS)]
    for job_id in ("first", "twin"):
        rig.submit(make_request(prompt, job_id))
        rig.run()
    first, twin = times_of(rig, "first"), times_of(rig, "twin")
    assert said(first) == ["admission", *["prefill"] * (len(prompt) // 32), "decode"]
    assert total(first, PartKind.PREFILL) == len(prompt)
    assert total(first, PartKind.DECODE) == 7  # the eighth token is given out, never computed
    assert said(twin) == ["admission", "cache_hit", "prefill", "decode"]
    assert total(twin, PartKind.CACHE_HIT) + total(twin, PartKind.PREFILL) == len(prompt)
    for times in (first, twin):
        check_sum(times)


def test_a_preempted_job_waits_and_computes_its_tokens_again() -> None:
    rig = make_rig(n_blocks=4, n_ctx=4 * BLOCK_TOKENS, headroom_blocks=0, prefix_cache=False)
    n = 2 * BLOCK_TOKENS
    rig.submit(make_request(job_id="old", max_tokens=n))
    rig.submit(make_request(job_id="young", max_tokens=n))
    rig.run()
    assert rig.engine.stats().n_preemptions > 0
    young = times_of(rig, "young")
    assert "preempted" in said(young)
    assert said(young)[said(young).index("preempted") + 1] == "prefill"
    assert "preempted" not in said(times_of(rig, "old"))
    check_sum(young)


def test_who_waits_for_a_seat_is_not_admitted_yet() -> None:
    rig = make_rig(n_slots=1)
    rig.submit(make_request(job_id="first"))
    rig.submit(make_request(job_id="second"))
    rig.run()
    first, second = times_of(rig, "first"), times_of(rig, "second")
    assert said(second) == ["admission", "prefill", "decode"]
    assert second.parts[0].seconds >= first.ended_at - second.began_at
    check_sum(second)


def test_events_that_are_taken_late_are_a_stall() -> None:
    rig = make_rig()
    collect, n_calls = rig.events, 0

    def slowly(events: list[EngineEvent]) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            time.sleep(0.1)
        collect(events)

    rig.engine._outbox._on_events = slowly
    rig.submit(make_request())
    rig.run()
    times = times_of(rig)
    assert said(times) == ["admission", "prefill", "decode", "redis", "decode"]
    assert times.parts[3].seconds >= 0.1
    check_sum(times)


def test_steps_of_others_are_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seat alone does not put a sequence into every step."""
    rig = make_rig()
    scheduler = rig.engine._scheduler
    schedule = scheduler.schedule

    def without_the_second(now: float) -> list[Sequence]:
        if len(scheduler.running) < 2 or len(scheduler.running[0].ids) > 7:
            return schedule(now)
        second = scheduler.running.pop()
        batch = schedule(now)
        scheduler.running.append(second)
        return batch

    monkeypatch.setattr(scheduler, "schedule", without_the_second)
    rig.submit(make_request(job_id="first", max_tokens=12))
    rig.submit(make_request(job_id="second"))
    rig.run()
    second = times_of(rig, "second")
    assert said(second) == ["admission", "prefill", "others", "decode"]
    check_sum(second)


@pytest.mark.parametrize("how", ["cancelled", "expired", "released"])
def test_every_ending_tells_where_the_time_went(how: str) -> None:
    rig = make_rig(n_slots=1)
    options: dict[str, Any] = {"deadline_seconds": 0.05} if how == "expired" else {}
    rig.submit(make_request(job_id="runs", max_tokens=400, **options))
    rig.submit(make_request(job_id="waits", max_tokens=400, **options))
    for _ in range(3):
        rig.engine.step()
    if how == "cancelled":
        rig.engine.cancel("runs")
        rig.engine.cancel("waits")
    elif how == "released":
        rig.engine.drain(0.0)
    else:
        time.sleep(0.06)
    rig.run()
    assert rig.outcome("runs").reason == rig.outcome("waits").reason == how
    assert said(times_of(rig, "runs")) == ["admission", "prefill", "decode"]
    assert said(times_of(rig, "waits")) == ["admission"]
    for job_id in ("runs", "waits"):
        check_sum(times_of(rig, job_id))
    if how == "released":
        assert isinstance(rig.outcome("runs").end, SequenceReleased)
