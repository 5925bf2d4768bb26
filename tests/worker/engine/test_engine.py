"""The engine over a fake transformer: what a request gets, and how it can end."""

import contextlib
import threading
import time
from typing import Any

import pytest
from fakes import EOG, N_VOCAB, Collector, greedy_reference, logits_after, make_request, make_rig, run_alone

from woolly_worker.contract.errors import ContextOverflow, InvalidRequest, PoolExhausted
from woolly_worker.contract.jobs import JobMetrics
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineEvent, EngineStopped, SequenceDone, SequenceFailed, SequenceReleased
from woolly_worker.engine.sampler import Sampler
from woolly_worker.engine.scheduler import Pace
from woolly_worker.engine.settings import EngineSettings

LONG = tuple(3 + i % 97 for i in range(200))


def test_greedy_tokens_are_those_of_the_plain_loop() -> None:
    outcome = run_alone(make_request(LONG, max_tokens=80))
    assert outcome.token_ids == greedy_reference(LONG, 80)
    assert outcome.reason == "length"


def test_each_token_is_drawn_with_the_number_of_its_place() -> None:
    sampling = {"temperature": 1.0, "seed": 77, "top_p": 0.9}
    outcome = run_alone(make_request(LONG[:40], max_tokens=30, **sampling))
    sampler, params = Sampler(N_VOCAB), make_request(**sampling).sampling
    for i, token_id in enumerate(outcome.token_ids):
        logits = logits_after([*LONG[:40], *outcome.token_ids[:i]])
        assert token_id == sampler.sample(logits, params, None, i)
    other = run_alone(make_request(LONG[:40], max_tokens=30, **sampling | {"seed": 78}))
    assert other.token_ids != outcome.token_ids


@pytest.mark.parametrize("max_step_tokens", [1, 2, 7, 31, 32, 33, 512])
def test_the_chunk_size_of_prefill_changes_nothing(max_step_tokens: int) -> None:
    outcome = run_alone(make_request(LONG, max_tokens=40), max_step_tokens=max_step_tokens)
    assert outcome.token_ids == greedy_reference(LONG, 40)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_mixed_batch_gives_everybody_their_own_tokens(prefix_cache: bool) -> None:
    rig = make_rig(n_slots=4, prefix_cache=prefix_cache)
    prompts = {f"job{i}": (*LONG[: 1 + 23 * i], 3 + i) for i in range(8)}
    for job_id, prompt in prompts.items():
        rig.submit(make_request(prompt, job_id, max_tokens=20 + len(prompt) % 7))
    rig.run()
    for job_id, prompt in prompts.items():
        assert rig.outcome(job_id).token_ids == greedy_reference(prompt, 20 + len(prompt) % 7)
    rig.check_idle()
    assert rig.engine.stats().batch_size_mean > 2


def test_eos_ends_it_and_is_not_given_out() -> None:
    prompts = [(token_id, 9) for token_id in range(3, N_VOCAB)]
    found = [p for p in prompts if EOG in greedy_reference(p, 60)]
    prompt = found[0]
    n = greedy_reference(prompt, 60).index(EOG)
    outcome = run_alone(make_request(prompt, max_tokens=60, ignore_eos=False))
    assert outcome.token_ids == greedy_reference(prompt, n)
    assert outcome.reason == "stop"
    assert isinstance(outcome.end, SequenceDone)
    assert outcome.end.seq == n + 1
    assert outcome.end.usage.completion_tokens == n

    ignoring = run_alone(make_request(prompt, max_tokens=60))
    assert ignoring.token_ids == greedy_reference(prompt, 60)
    assert ignoring.reason == "length"


def test_a_stop_string_ends_it_and_does_not_leak() -> None:
    full = run_alone(make_request(LONG[:40], max_tokens=30)).text
    stop = full[9:12]
    outcome = run_alone(make_request(LONG[:40], max_tokens=30, stop=(stop,)))
    assert outcome.text == full[: full.index(stop)]
    assert outcome.reason == "stop"


def test_without_max_tokens_it_goes_on_until_the_context_is_full() -> None:
    outcome = run_alone(make_request(LONG, max_tokens=None), n_ctx=256)
    assert len(outcome.token_ids) == 56
    assert outcome.reason == "length"
    small_pool = run_alone(make_request(LONG, max_tokens=None), n_ctx=256, n_blocks=7)
    assert len(small_pool.token_ids) == 7 * 32 - 200


def test_a_request_that_can_never_fit_is_refused_with_both_numbers() -> None:
    rig = make_rig(n_ctx=256, n_blocks=4)
    with pytest.raises(ContextOverflow, match=r"200 tokens and max_tokens is 57, the context holds 256 for prompt"):
        rig.engine.submit(make_request(LONG, max_tokens=57))
    with pytest.raises(ContextOverflow, match=r"256 tokens, the context holds 256"):
        rig.engine.submit(make_request(LONG + LONG[:56], max_tokens=None))
    with pytest.raises(PoolExhausted, match=r"7 KV blocks, this worker has 4"):
        rig.engine.submit(make_request(LONG, max_tokens=1))
    with pytest.raises(InvalidRequest, match="no tokens"):
        rig.engine.submit(make_request(()))
    assert not rig.engine.step()


@pytest.mark.parametrize("n_blocks", [1, 4, 7, 8, 9])
def test_no_request_is_served_that_is_longer_than_the_limits_tell(n_blocks: int) -> None:
    rig = make_rig(n_ctx=256, n_blocks=n_blocks)
    longest = rig.engine.limits.longest
    rig.engine.submit(make_request(LONG[:1], max_tokens=longest - 1))
    with pytest.raises((ContextOverflow, PoolExhausted)):
        rig.engine.submit(make_request(LONG[:1], max_tokens=longest, job_id="longer"))


def test_the_largest_request_that_fits_runs() -> None:
    # 128 positions in 4 blocks: 100 prompt tokens, and the last of 29 generated ones is never computed.
    outcome = run_alone(make_request(LONG[:100], max_tokens=29), n_blocks=4, n_ctx=256)
    assert outcome.token_ids == greedy_reference(LONG[:100], 29)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (make_request((5, N_VOCAB)), "prompt"),
        (make_request((5, -1)), "prompt"),
        (make_request(resume=(N_VOCAB,)), "resume_ids"),
        (make_request(logit_bias={N_VOCAB: 1.0}), "sampling.logit_bias"),
        (make_request(seed=None), "sampling.seed"),
    ],
)
def test_ids_and_numbers_that_mean_nothing_are_refused(request_: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        make_rig().engine.submit(request_)
    assert error.value.param == param


def test_a_job_is_not_taken_twice_with_the_same_fence() -> None:
    rig = make_rig()
    rig.submit(make_request())
    with pytest.raises(InvalidRequest, match="already here"):
        rig.engine.submit(make_request())
    rig.submit(make_request(fence=2))
    rig.run()
    assert rig.outcome(fence=1).token_ids == rig.outcome(fence=2).token_ids
    rig.submit(make_request())  # its first life is over
    rig.run()


def test_decode_goes_on_in_every_step_of_a_long_prefill() -> None:
    rig = make_rig(max_step_tokens=16)
    rig.submit(make_request((5,), "early", max_tokens=30))
    rig.engine.step()
    rig.submit(make_request(LONG, "long", max_tokens=1))
    while rig.outcome("long").end is None:
        before = len(rig.outcome("early").token_ids)
        rig.engine.step()
        assert len(rig.outcome("early").token_ids) == before + 1
    assert [total for _, total in rig.outcome("long").progress] == [200] * 13
    assert [done for done, _ in rig.outcome("long").progress] == [15 * i for i in range(1, 14)]


def test_a_short_prompt_passes_a_long_one() -> None:
    rig = make_rig(max_step_tokens=32)
    rig.submit(make_request(LONG, "long", max_tokens=2))
    rig.engine.step()
    rig.submit(make_request(LONG[50:60], "short", max_tokens=2))
    rig.engine.step()
    assert len(rig.outcome("short").token_ids) == 1
    assert rig.outcome("long").token_ids == []
    assert rig.transformer.steps[-1] == (32, 1)  # both were in that step, and it was full


def test_a_slow_model_gets_smaller_chunks_while_somebody_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(max_step_tokens=128, decode_gap_seconds=0.1)
    rig.engine._scheduler.pace.measured(100, 0.2)  # 2 ms a token: 50 fit, in whole tiles 48
    monkeypatch.setattr(Pace, "measured", lambda self, n_tokens, seconds: None)
    rig.submit(make_request((5,), "early", max_tokens=30))
    rig.engine.step()
    rig.submit(make_request(LONG, "long"))
    rig.engine.step()
    assert rig.transformer.steps[-1][0] == 1 + 48
    rig.engine.cancel("early")
    rig.engine.step()
    assert rig.transformer.steps[-1][0] == 128


def test_cancel_is_seen_before_the_next_step() -> None:
    rig = make_rig()
    rig.submit(make_request(max_tokens=50))
    for _ in range(5):
        rig.engine.step()
    rig.engine.cancel("job", fence=2)  # somebody else's
    rig.engine.step()
    rig.engine.cancel("job")
    rig.engine.cancel("job")
    rig.engine.step()
    end = rig.outcome().end
    assert isinstance(end, SequenceFailed)
    assert (end.state, end.error.code, end.seq) == (JobState.CANCELLED, "cancelled", 7)
    assert rig.outcome().token_ids == greedy_reference((5, 6, 7), 6)
    rig.check_idle()


def test_cancel_reaches_a_job_that_waits_and_one_not_yet_looked_at() -> None:
    rig = make_rig(n_slots=1)
    rig.submit(make_request(job_id="running", max_tokens=50))
    rig.submit(make_request(job_id="waiting"))
    rig.engine.step()
    rig.engine.cancel("waiting")
    rig.submit(make_request(job_id="new"))
    rig.engine.cancel("new")
    rig.engine.step()
    assert rig.outcome("waiting").reason == rig.outcome("new").reason == "cancelled"
    rig.engine.cancel("running")
    rig.run()
    rig.check_idle()


def test_cancel_and_submit_between_two_steps_leave_one_ending() -> None:
    rig = make_rig()
    rig.engine.cancel("job")
    rig.submit(make_request())
    rig.run()
    assert rig.outcome().reason == "cancelled"
    rig.check_idle()


def test_drop_is_silent_and_fenced() -> None:
    rig = make_rig()
    rig.submit(make_request(max_tokens=50))
    rig.submit(make_request(fence=2, max_tokens=5))
    rig.engine.step()
    rig.engine.drop("job", 1)
    rig.engine.drop("job", 7)
    rig.run()
    assert len(rig.outcome(fence=1).token_ids) == 1
    assert rig.outcome(fence=1).end is None
    assert rig.outcome(fence=2).reason == "length"
    assert rig.engine.stats().n_dropped == 1
    rig.check_idle()
    assert rig.engine.wait_idle(0)


def test_a_deadline_ends_it_as_expired() -> None:
    rig = make_rig(n_slots=1)
    rig.submit(make_request(job_id="running", max_tokens=400, deadline_seconds=0.05))
    rig.submit(make_request(job_id="waiting", deadline_seconds=0.05))
    rig.submit(make_request(job_id="patient", deadline_seconds=60))
    rig.engine.step()
    time.sleep(0.06)
    rig.run()
    for job_id in ("running", "waiting"):
        end = rig.outcome(job_id).end
        assert isinstance(end, SequenceFailed)
        assert (end.state, end.error.code) == (JobState.EXPIRED, "deadline_exceeded")
    assert rig.outcome("patient").reason == "length"
    rig.check_idle()


def test_a_step_that_breaks_fails_its_batch_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    rig = make_rig(n_slots=2)
    for job_id in ("a", "b", "c"):
        rig.submit(make_request(job_id=job_id))
    rig.transformer.fail_at_step = 3
    rig.run()
    for job_id in ("a", "b"):
        end = rig.outcome(job_id).end
        assert isinstance(end, SequenceFailed)
        assert (end.state, end.error.code, end.seq) == (JobState.FAILED, "internal_error", 3)
        assert "quoted" not in end.error.message
    assert rig.outcome("c").token_ids == greedy_reference((5, 6, 7), 8)
    assert "ZeroDivisionError" in caplog.text
    assert "quoted" not in caplog.text
    rig.check_idle()


def test_logits_that_are_no_numbers_fail_one_sequence_only(caplog: pytest.LogCaptureFixture) -> None:
    rig = make_rig(n_slots=2)
    rig.submit(make_request((5,), "a"))
    rig.submit(make_request((6,), "b"))
    rig.transformer.not_finite_at_step = 2
    rig.run()
    assert rig.outcome("a").reason == "failed"
    assert rig.outcome("b").token_ids == greedy_reference((6,), 8)
    assert "not finite" in caplog.text
    rig.check_idle()


class Refusing:
    """A callable for events that raises at the calls it is told to."""

    def __init__(self, refused: set[int]) -> None:
        self.refused = refused
        self.n_calls = 0
        self.taken: list[EngineEvent] = []

    def __call__(self, events: list[EngineEvent]) -> None:
        self.n_calls += 1
        if self.n_calls in self.refused:
            raise OSError("gone")
        self.taken += events


@pytest.mark.parametrize(("refused", "n_ends"), [({3}, 2), ({8}, 2), ({3, 4}, 2), ({3, 4, 5}, 0)])
def test_events_that_nobody_takes_are_made_up_for(
    refused: set[int], n_ends: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream with a hole fails; an ending is offered once more. Nothing of it happens in silence."""
    rig = make_rig()
    callback = Refusing(refused)
    rig.engine._outbox._on_events = callback
    for job_id in ("a", "b"):
        rig.engine.submit(make_request(job_id=job_id, max_tokens=8))
    rig.run()
    ends = [event for event in callback.taken if isinstance(event, SequenceDone | SequenceFailed)]
    assert len(ends) == n_ends
    assert "OSError" in caplog.text
    assert rig.engine.stats().n_emit_errors == len(refused)
    assert rig.engine.wait_idle(0)
    if refused == {8}:
        assert all(isinstance(end, SequenceDone) for end in ends)
    elif ends:
        assert all(isinstance(end, SequenceFailed) and end.error.code == "internal_error" for end in ends)
    rig.check_idle()


def test_draining_lets_the_running_finish_and_releases_the_others() -> None:
    rig = make_rig(n_slots=1)
    rig.submit(make_request(job_id="running", max_tokens=10))
    rig.submit(make_request(job_id="waiting"))
    rig.engine.step()
    rig.engine.drain(60)
    rig.engine.step()
    assert rig.outcome("waiting").reason == "released"
    rig.submit(make_request(job_id="late"))
    rig.run()
    assert rig.outcome("late").reason == "released"
    assert rig.outcome("running").reason == "length"
    assert len(rig.outcome("running").token_ids) == 10
    rig.check_idle()


def test_what_is_not_done_within_the_grace_is_released() -> None:
    rig = make_rig()
    rig.submit(make_request(max_tokens=300))
    for _ in range(3):
        rig.engine.step()
    rig.engine.drain(0)
    rig.run()
    assert isinstance(rig.outcome().end, SequenceReleased)
    assert len(rig.outcome().token_ids) == 3
    rig.check_idle()


def test_the_engine_in_its_own_thread() -> None:
    rig = make_rig()
    rig.engine.start()
    with pytest.raises(RuntimeError):
        rig.engine.start()
    with pytest.raises(RuntimeError):
        rig.engine.step()
    for i in range(6):
        rig.submit(make_request(LONG[: 10 + i], f"job{i}", max_tokens=30))
    assert rig.engine.wait_idle(20)
    for i in range(6):
        assert rig.outcome(f"job{i}").token_ids == greedy_reference(LONG[: 10 + i], 30)
    rig.submit(make_request(job_id="endless", max_tokens=None))
    assert rig.engine.drain(0.05)
    assert rig.outcome("endless").reason == "released"
    rig.engine.stop()
    rig.check_idle()
    assert rig.engine.scratch.figures().n_leases == 0
    with pytest.raises(PoolExhausted, match="stopped"):
        rig.engine.submit(make_request())


@pytest.mark.parametrize("threaded", [True, False])
def test_stop_releases_whatever_is_left(threaded: bool) -> None:
    rig = make_rig(n_slots=1)
    if threaded:
        rig.engine.start()
    for job_id in ("a", "b"):
        rig.submit(make_request(job_id=job_id, max_tokens=None))
    if not threaded:
        rig.engine.step()
    rig.engine.stop()
    rig.engine.stop()
    assert {rig.outcome(job_id).reason for job_id in ("a", "b")} <= {"released", "length"}
    rig.check_idle()


def test_a_thread_that_dies_says_so_and_releases_everybody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def die() -> None:
        raise SystemExit("a prompt might be quoted here")

    rig, died = make_rig(n_slots=1), threading.Event()
    monkeypatch.setattr(rig.transformer, "step", die)
    rig.engine.start(died.set)
    for job_id in ("a", "b"):
        with contextlib.suppress(EngineStopped):
            rig.submit(make_request(job_id=job_id, max_tokens=None))
    assert died.wait(10)
    assert rig.engine.wait_idle(10)
    assert rig.outcome("a").reason == "released"
    with pytest.raises(EngineStopped):
        rig.submit(make_request(job_id="c"))
    rig.engine.stop()
    rig.check_idle()
    assert "the engine's thread ends: SystemExit" in caplog.text
    assert "quoted" not in caplog.text + capfd.readouterr().err


def test_an_engine_that_is_stopped_has_not_died() -> None:
    rig, died = make_rig(), threading.Event()
    rig.engine.start(died.set)
    rig.engine.stop()
    assert not died.is_set()


def test_a_callback_that_blocks_holds_the_engine_back() -> None:
    rig = make_rig()
    gate, entered = threading.Event(), threading.Event()
    collector = rig.events

    def slow(events: list[EngineEvent]) -> None:
        entered.set()
        assert gate.wait(10)
        Collector.__call__(collector, events)

    rig.engine._outbox._on_events = slow
    rig.engine.start()
    rig.submit(make_request(max_tokens=5))
    assert entered.wait(10)
    assert not rig.engine.wait_idle(0.05)
    assert len(rig.transformer.steps) == 1
    gate.set()
    assert rig.engine.wait_idle(10)
    rig.engine.stop()
    assert rig.outcome().token_ids == greedy_reference((5, 6, 7), 5)


def test_a_waiting_job_gives_signs_of_life() -> None:
    rig = make_rig(n_slots=1, waiting_tick_seconds=0.0)
    rig.submit(make_request(job_id="running", max_tokens=10))
    rig.submit(make_request(LONG, "waiting"))
    for _ in range(3):
        rig.engine.step()
    assert rig.outcome("waiting").progress == [(0, 200)] * 3


def test_usage_and_metrics_tell_how_it_went() -> None:
    rig = make_rig(max_step_tokens=64)
    rig.submit(make_request(LONG, max_tokens=12))
    rig.run()
    rig.submit(make_request(LONG, "again", max_tokens=12))
    rig.run()
    first, again = rig.outcome().end, rig.outcome("again").end
    assert isinstance(first, SequenceDone)
    assert isinstance(again, SequenceDone)
    assert first.usage.model_dump() == {
        "prompt_tokens": 200,
        "completion_tokens": 12,
        "total_tokens": 212,
        "cached_tokens": 0,
    }
    assert again.usage.cached_tokens == again.metrics.n_cached_tokens == 192
    assert (first.metrics.n_prefill_tokens, again.metrics.n_prefill_tokens) == (200, 8)
    m = first.metrics
    assert (m.kv_blocks, m.batch_size_max, m.batch_size_mean) == (7, 1, 1.0)
    assert m.prefill_seconds is not None
    assert m.prefill_tokens_per_second == pytest.approx(200 / m.prefill_seconds)
    assert m.inter_token_p50_seconds is not None
    assert m.inter_token_p99_seconds is not None
    assert 0 < m.inter_token_p50_seconds <= m.inter_token_p99_seconds
    assert m.decode_tokens_per_second is not None
    assert m.cpu_seconds is not None
    assert m.cpu_seconds > 0
    JobMetrics(**{name: getattr(m, name) for name in m.__slots__})  # the contract knows every one of them

    stats = rig.engine.stats()
    assert (stats.n_decode_tokens, stats.n_prefill_tokens, stats.n_cached_tokens) == (24, 208, 192)
    assert stats.prefix_hit_rate == pytest.approx(192 / 400)
    assert stats.n_steps == len(rig.transformer.steps)
    assert stats.n_done == 2
    assert stats.kv_blocks_free == stats.kv_blocks_total == 64
    shares = stats.schedule_share + stats.forward_share + stats.sample_share + stats.emit_share
    assert shares == pytest.approx(1)


def test_logprobs_come_with_text_and_are_the_models_own() -> None:
    outcome = run_alone(make_request(max_tokens=4, logprobs=3, logit_bias={9: 5.0}, presence_penalty=1.5))
    for token_id, (logprob, top) in zip(outcome.token_ids, outcome.logprobs, strict=True):
        assert len(top) == (3 if token_id in [t.token_id for t in top[:3]] else 4)
        assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
        assert [t.logprob for t in top if t.token_id == token_id] == [logprob]
        assert logprob <= top[0].logprob + 1e-6
        assert all(t.text for t in top)
        assert token_id < N_VOCAB
    none = run_alone(make_request(max_tokens=2)).logprobs
    assert none == [(None, None)] * 2
    zero = run_alone(make_request(max_tokens=2, logprobs=0))
    for token_id, (logprob, top) in zip(zero.token_ids, zero.logprobs, strict=True):
        assert [(t.token_id, t.logprob) for t in top] == [(token_id, logprob)]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_step_tokens is 3, but 4 slots"):
        EngineSettings(n_slots=4, max_step_tokens=3)
    with pytest.raises(ValueError, match="at least one slot"):
        EngineSettings(n_slots=0, max_step_tokens=3)
