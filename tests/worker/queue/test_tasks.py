"""One attempt at a job, from its bell to its report, without Celery: real server, scripted engine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted import MODEL, PROMPT, Scripted, ScriptedEngine, cancelled, done, eventually, request, token

from woolly_worker.contract.errors import ContextOverflow
from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import Usage
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineStopped
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import WorkerBeat
from woolly_worker.ledger.records import Bell, Claim, Emission
from woolly_worker.queue.runtime import Runtime
from woolly_worker.queue.tasks import JobFailed, run_job
from woolly_worker.settings import WorkerSettings
from woolly_worker.telemetry import configure_logging

Run = Callable[[str], dict[str, Any]]


@contextmanager
def working(redis_url: str, engine: ScriptedEngine) -> Iterator[tuple[Runtime, list[Bell]]]:
    rung: list[Bell] = []
    served = Scripted(engine)

    def load(settings: WorkerSettings, on_events: Any) -> Scripted:
        engine.on_events = on_events
        return served

    settings = WorkerSettings(redis_url=redis_url, model=Path("tiny.gguf"), threads=1, slots=4, lease_seconds=5)
    runtime = Runtime(settings, load, rung.append)
    runtime.start()
    try:
        yield runtime, rung
    finally:
        runtime.drain(0.0)
        runtime.stop()
        assert served.closed


def test_a_job_that_succeeds(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [token(r.job_id, 1), token(r.job_id, 2), done(r.job_id, 3)])
    with working(redis_url, engine) as (runtime, rung):
        ledger.submit(request(sampling={"max_tokens": 2}, deadline_seconds=60), job_id="j")
        report = run_job(runtime, "j", "j.1")
        assert run_job(runtime, "j", "j.2") == {"outcome": "terminal"}
        assert run_job(runtime, "never", "never.1") == {"outcome": "gone"}
    assert report["state"] == "succeeded"
    assert report["tokens"] == 2
    assert report["tokens_per_second"] == 9.0
    assert report["ttft_seconds"] is not None
    (seen,) = engine.requests
    assert "".join(map(chr, seen.prompt_ids)) == PROMPT
    assert seen.sampling.seed is not None
    assert seen.deadline_seconds is not None
    assert 50 < seen.deadline_seconds <= 60
    assert rung == []


def test_a_second_bell_while_the_job_runs(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    with working(redis_url, engine) as (runtime, _):
        ledger.submit(request(), job_id="j")
        first = threading.Thread(target=run_job, args=(runtime, "j", "j.1"))
        first.start()
        eventually(lambda: engine.requests)
        assert run_job(runtime, "j", "j.2") == {"outcome": "busy"}
        engine.on_events([done("j", 1)])
        first.join(5)
    assert ledger.view("j").state is JobState.SUCCEEDED


def test_what_the_engine_refuses_fails_with_its_code(ledger: Ledger, redis_url: str) -> None:
    overflow = ContextOverflow("prompt has 100 tokens, n_ctx is 64", param="prompt", details={"n_ctx": 64})
    with working(redis_url, ScriptedEngine(refuse=overflow)) as (runtime, _):
        ledger.submit(request(), job_id="j")
        with pytest.raises(JobFailed, match="context_length_exceeded"):
            run_job(runtime, "j", "j.1")
    result = ledger.view("j").result
    assert result is not None
    assert result.error is not None
    assert result.error.message == "prompt has 100 tokens, n_ctx is 64"
    assert result.usage == Usage(prompt_tokens=len(PROMPT), total_tokens=len(PROMPT))
    assert (result.error.param, result.error.http_status, result.error.details) == ("prompt", 400, {"n_ctx": 64})


def test_a_bug_reaches_neither_the_client_nor_the_log_in_its_own_words(
    ledger: Ledger, redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("debug", "json")
    with working(redis_url, ScriptedEngine(refuse=ZeroDivisionError(PROMPT))) as (runtime, _):
        ledger.submit(request(), job_id="j")
        with pytest.raises(JobFailed, match="internal_error"):
            run_job(runtime, "j", "j.1")
    result = ledger.view("j").result
    assert result is not None
    assert result.error is not None
    assert result.error.code == "internal_error"
    logged = capfd.readouterr().err
    assert "ZeroDivisionError" in logged
    assert "scripted.py" in logged
    assert PROMPT not in logged + result.model_dump_json()


def test_a_record_whose_request_cannot_be_read_fails_and_is_not_quoted(
    ledger: Ledger, redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("debug", "json")
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        ledger.submit(request(), job_id="j")
        stored = json.loads(ledger.client.hget(keys.job("j"), "request") or "")
        ledger.client.hset(keys.job("j"), "request", json.dumps({**stored, "prompt": {"text": PROMPT}}))
        report = run_job(runtime, "j", "j.1")
    assert report == {"outcome": "unreadable"}
    view = ledger.view("j")
    assert (view.state, view.attempts, view.crashes) == (JobState.FAILED, 1, 0)
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "internal_error"
    logged = capfd.readouterr().err
    assert PROMPT not in logged + view.model_dump_json()
    assert logged.count('"event": "job"') == 1


def test_a_job_that_ends_at_its_claim_has_its_line(
    ledger: Ledger, redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        ledger.submit(request(deadline_seconds=0.01), job_id="j")
        time.sleep(0.02)
        assert run_job(runtime, "j", "j.1") == {"outcome": "expired"}
        assert run_job(runtime, "j", "j.2") == {"outcome": "terminal"}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if '"event": "job"' in line]
    assert (json.loads(line)["state"], json.loads(line)["attempts"]) == ("expired", 0)


def test_a_bug_of_the_claim_is_logged_without_its_words(
    ledger: Ledger,
    redis_url: str,
    capfd: pytest.CaptureFixture[str],
    restored_logging: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def claim(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(PROMPT)

    configure_logging("debug", "json")
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        monkeypatch.setattr(runtime.ledger, "claim", claim)
        assert run_job(runtime, "j", "j.1") == {"outcome": "abandoned"}
    logged = capfd.readouterr().err
    assert "ValueError" in logged
    assert PROMPT not in logged


def test_a_bell_serves_the_job_that_is_next(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [done(r.job_id, 1)])
    with working(redis_url, engine) as (runtime, _):
        for name, tenant in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            ledger.submit(request(tenant=tenant), job_id=name)
        shown: list[str] = []
        reports = [run_job(runtime, name, f"{name}.1", shown.append) for name in ("a1", "a2", "b1", "b1")]
    assert [r.job_id for r in engine.requests] == ["a1", "b1", "a2"]
    assert shown == ["b1", "a2"]
    assert reports[-1] == {"outcome": "terminal"}


def test_a_record_that_cannot_be_claimed_holds_up_nobody(
    ledger: Ledger, redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")
    engine = ScriptedEngine(on_submit=lambda r: [done(r.job_id, 1)])
    with working(redis_url, engine) as (runtime, _):
        for name in ("broken", "sound"):
            ledger.submit(request(), job_id=name)
        ledger.client.hset(keys.job("broken"), "deadline_ms", "not a number")
        assert run_job(runtime, "broken", "broken.1")["state"] == "succeeded"
    assert [r.job_id for r in engine.requests] == ["sound"]
    assert '"broken"' in capfd.readouterr().err


def test_celery_terminates_a_task(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    with working(redis_url, engine) as (runtime, _):
        ledger.submit(request(), job_id="j")
        task = threading.Thread(target=run_job, args=(runtime, "j", "j.1"))
        task.start()
        eventually(lambda: engine.requests)
        runtime.terminate("another task")
        runtime.terminate("j.1")
        assert engine.orders == [("start",), ("cancel", "j", 1)]
        engine.on_events([cancelled("j", 1)])
        task.join(5)
    assert ledger.view("j").state is JobState.CANCELLED


def test_two_bells_with_one_task_id_are_two_attempts(ledger: Ledger, redis_url: str) -> None:
    """A bell that was put back may come twice; the second one finds the job of another."""
    engine = ScriptedEngine()
    reports: list[dict[str, Any]] = []
    with working(redis_url, engine) as (runtime, _):
        tasks = [threading.Thread(target=lambda: reports.append(run_job(runtime, "j", "j.1"))) for _ in range(2)]
        for n, job_id in enumerate(("j", "k")):
            ledger.submit(request(), job_id=job_id)
            tasks[n].start()
            eventually(lambda: len(engine.requests) == n + 1)  # noqa: B023
        engine.on_events([done("k", 1)])
        tasks[1].join(5)
        runtime.terminate("j.1")
        assert engine.orders == [("start",), ("cancel", "j", 1)]
        engine.on_events([cancelled("j", 1)])
        tasks[0].join(5)
    assert [report["state"] for report in reports] == ["succeeded", "cancelled"]


def test_celery_terminates_all_attempts_of_a_task(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    with working(redis_url, engine) as (runtime, _):
        tasks = [threading.Thread(target=run_job, args=(runtime, "j", "j.1")) for _ in range(2)]
        for job_id in ("j", "k"):
            ledger.submit(request(), job_id=job_id)
        for task in tasks:
            task.start()
        eventually(lambda: len(engine.requests) == 2)
        runtime.terminate("j.1")
        assert sorted(engine.orders) == [("cancel", "j", 1), ("cancel", "k", 1), ("start",)]
        engine.on_events([cancelled("j", 1), cancelled("k", 1)])
        for task in tasks:
            task.join(5)
    assert {ledger.view(job_id).state for job_id in ("j", "k")} == {JobState.CANCELLED}


def test_a_job_of_other_weights_is_not_given_up_while_a_worker_loads(ledger: Ledger, redis_url: str) -> None:
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        ledger.submit(request(), job_id="j")
        claim = ledger.claim("j", "w", lease_seconds=30, recipe="others")
        assert isinstance(claim, Claim)
        ledger.emit([Emission("j", claim.fence, TokenEvent(seq=1, token_id=1, text="t"))], lease_seconds=30)
        ledger.release("j", claim.fence, MODEL)
        ledger.client.hset(keys.job("j"), "unserved_ms", 1)
        loading = WorkerBeat(worker_id="w", model=MODEL, hostname="h", pid=1, state="loading")
        runtime.registry.beat(loading)
        assert run_job(runtime, "j", "j.1") == {"outcome": "other_recipe"}
        assert ledger.view("j").state is JobState.QUEUED
        runtime.registry.leave("w")
        assert run_job(runtime, "j", "j.2") == {"outcome": "other_recipe"}
        assert ledger.view("j").state is JobState.FAILED


def test_a_drain_gives_the_jobs_back_and_rings_for_them(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    with working(redis_url, engine) as (runtime, rung):
        ledger.submit(request(), job_id="j")
        reports: list[dict[str, Any]] = []
        task = threading.Thread(target=lambda: reports.append(run_job(runtime, "j", "j.1")))
        task.start()
        eventually(lambda: engine.requests)
        engine.on_events([token("j", 1)])
        runtime.drain(0.0)
        task.join(5)
        assert reports == [{"outcome": "released"}]
    assert [(bell.job_id, bell.number) for bell in rung] == [("j", 2)]
    view = ledger.view("j")
    assert (view.state, view.last_seq, view.crashes) == (JobState.QUEUED, 1, 0)


def test_a_job_claimed_when_the_engine_dies_goes_back(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine(refuse=EngineStopped("the engine has been stopped"))
    with working(redis_url, engine) as (runtime, rung):
        ledger.submit(request(), job_id="j")
        assert run_job(runtime, "j", "j.1") == {"outcome": "released"}
        engine.die()
        assert runtime.draining
        assert run_job(runtime, "j", "j.2") == {"outcome": "abandoned"}
    assert [bell.task_id for bell in rung] == ["j.2"]
    view = ledger.view("j")
    assert (view.state, view.attempts, view.crashes) == (JobState.QUEUED, 1, 0)


def test_the_worker_announces_itself_and_leaves(ledger: Ledger, redis_url: str) -> None:
    from woolly_worker.ledger.models import ModelRegistry

    registry = ModelRegistry(ledger.client)
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        eventually(lambda: any(beat.state == "ready" for beat in registry.workers()))
        (beat,) = registry.workers()
        assert (beat.worker_id, beat.model, beat.optimizations) == (runtime.worker_id, "tiny", ("scripted",))
        assert beat.stats.kv_blocks_total == 8
        assert beat.n_ctx == 48  # what its pool holds, less than the context of its card
        assert (beat.stats.rss_bytes or 0) > 1_000_000
        assert [card.name for card in registry.cards()] == ["tiny"]
    assert registry.workers() == []
