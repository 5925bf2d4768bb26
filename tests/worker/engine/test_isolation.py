"""A sequence on probation: computed alone for a while, the others paused in their seats, and no text any different."""

import time

import pytest
from fakes import Rig, make_request, make_rig, run_alone

from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineRequest, SequenceFailed

ALONE_UNTIL = 6


def on_probation(until: int = ALONE_UNTIL, **changes: object) -> EngineRequest:
    base = make_request((9, 8, 7, 6), "suspect", max_tokens=12, **changes)  # type: ignore[arg-type]
    return EngineRequest(base.job_id, 1, base.prompt_ids, base.sampling, base.resume_ids, alone_until=until)


def others(n: int, **changes: object) -> list[EngineRequest]:
    return [make_request(range(3 + i, 40 + i), f"other{i}", max_tokens=20, **changes) for i in range(n)]  # type: ignore[arg-type]


def start(rig: Rig, requests: list[EngineRequest], n_steps: int = 3) -> None:
    """They are seated and in mid-decode."""
    for request in requests:
        rig.submit(request)
    for _ in range(n_steps):
        rig.engine.step()


def isolate_and_submit(rig: Rig, suspect: EngineRequest) -> None:
    isolated = rig.engine.isolate("suspect", 1)
    assert not isolated.is_set()
    rig.engine.step()
    assert isolated.is_set()
    rig.submit(suspect)


def step_until_held(rig: Rig) -> None:
    for _ in range(100):
        n = len(rig.transformer.steps)
        rig.engine.step()
        if len(rig.transformer.steps) == n:
            return
    raise AssertionError("still computing")


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_others_pause_and_go_on_with_the_same_text(prefix_cache: bool) -> None:
    # given: three in mid-decode
    rig = make_rig(prefix_cache=prefix_cache)
    requests, suspect = others(3), on_probation()
    start(rig, requests)
    before = [list(rig.outcome(request.job_id).token_ids) for request in requests]
    n_used = rig.kv.n_used
    # when: a fourth is computed alone
    isolate_and_submit(rig, suspect)
    n_steps = len(rig.transformer.steps)
    step_until_held(rig)
    # then: every step had its tokens only, until it passed; then nobody was computed
    assert all(n_rows == 1 for _, n_rows in rig.transformer.steps[n_steps:])
    assert rig.outcome("suspect").seqs == list(range(1, ALONE_UNTIL + 1))
    assert rig.outcome("suspect").n_passed == 1
    assert [rig.outcome(request.job_id).token_ids for request in requests] == before
    assert rig.kv.n_used >= n_used  # nobody lost their blocks
    assert rig.engine.stats().n_preemptions == 0
    # when: it joins the batch
    rig.engine.rejoin("suspect", 1)
    rig.run()
    # then: all say what they say alone
    for request in (*requests, suspect):
        assert rig.outcome(request.job_id).text == run_alone(request).text
        assert rig.outcome(request.job_id).reason == "length"
    rig.check_idle()


def test_nobody_is_computed_before_the_suspect_has_come() -> None:
    rig = make_rig()
    start(rig, others(2))
    rig.engine.isolate("suspect", 1)
    n_steps = len(rig.transformer.steps)
    for _ in range(5):
        assert rig.engine.step()  # there is work, later
    assert len(rig.transformer.steps) == n_steps
    rig.engine.rejoin("another", 1)  # of no meaning
    rig.engine.step()
    assert len(rig.transformer.steps) == n_steps
    rig.engine.rejoin("suspect", 1)
    rig.run()
    rig.check_idle()


def test_an_end_on_probation_holds_the_others_until_it_is_written_down() -> None:
    rig = make_rig()
    requests = others(2)
    start(rig, requests)
    isolate_and_submit(rig, on_probation(until=32))
    step_until_held(rig)
    assert rig.outcome("suspect").reason == "length"
    assert rig.outcome("suspect").n_passed == 0
    rig.engine.rejoin("suspect", 1)
    rig.run()
    assert all(rig.outcome(request.job_id).reason == "length" for request in requests)


def test_a_resumed_suspect_counts_from_its_first_token() -> None:
    whole = run_alone(on_probation(until=0))
    rig = make_rig()
    isolate_and_submit(rig, on_probation(until=8, resume=whole.token_ids[:5]))
    step_until_held(rig)
    assert rig.outcome("suspect").seqs == [6, 7, 8]
    rig.engine.rejoin("suspect", 1)
    rig.run()
    assert whole.token_ids[:5] + rig.outcome("suspect").token_ids == whole.token_ids


def test_who_is_in_the_way_is_preempted_and_says_the_same() -> None:
    # given: every slot and every KV block is taken
    rig = make_rig(n_slots=2, n_blocks=5, headroom_blocks=0)
    requests = [make_request(range(3, 40 + 20 * i), f"other{i}", max_tokens=30) for i in range(2)]
    start(rig, requests)
    assert rig.engine.stats().n_running == 2
    suspect = EngineRequest(
        "suspect", 1, tuple(range(5, 75)), make_request(max_tokens=40).sampling, alone_until=ALONE_UNTIL
    )
    # when
    isolate_and_submit(rig, suspect)
    step_until_held(rig)
    # then
    assert rig.outcome("suspect").n_passed == 1
    assert rig.engine.stats().n_preemptions > 0
    rig.engine.rejoin("suspect", 1)
    rig.run()
    for request in (*requests, suspect):
        assert rig.outcome(request.job_id).text == run_alone(request).text
    rig.check_idle()


def test_a_step_that_fails_alone_fails_the_suspect_only() -> None:
    rig = make_rig()
    requests = others(2)
    start(rig, requests)
    isolate_and_submit(rig, on_probation())
    rig.engine.step()
    rig.transformer.fail_at_step = len(rig.transformer.steps) + 1
    rig.engine.step()
    assert isinstance(rig.outcome("suspect").end, SequenceFailed)
    rig.engine.rejoin("suspect", 1)
    rig.run()
    assert all(rig.outcome(request.job_id).reason == "length" for request in requests)


def test_cancels_and_deadlines_of_the_paused_are_heard() -> None:
    rig = make_rig()
    cancelled, late = make_request(job_id="cancelled"), make_request(job_id="late", deadline_seconds=0.05)
    start(rig, [cancelled, late], n_steps=2)
    rig.engine.isolate("suspect", 1)
    rig.engine.cancel("cancelled")
    time.sleep(0.06)
    rig.engine.step()
    assert (rig.outcome("cancelled").reason, rig.outcome("late").reason) == ("cancelled", JobState.EXPIRED)


def test_a_held_engine_drains_and_stops_in_its_own_thread() -> None:
    rig = make_rig()
    start(rig, others(2))
    rig.engine.isolate("suspect", 1)
    looks: list[float] = []
    step = rig.engine.step
    rig.engine.step = lambda: (looks.append(0), step())[1]  # type: ignore[method-assign, func-returns-value]
    rig.engine.start()
    assert rig.engine.drain(0.3)
    assert rig.outcome("other0").reason == rig.outcome("other1").reason == "released"
    assert len(looks) < 20  # it does not spin while it is held
    rig.engine.stop()
    rig.check_idle()
