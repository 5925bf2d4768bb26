"""A job on probation, from its bell to its end: what the ledger knows when, and what the others do meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from probation import PROBATION_TOKENS
from scripted import Scripted, ScriptedEngine, done, eventually, request, token

from woolly_worker.contract.benchmarks import BenchmarkType
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineRequest, ProbationPassed
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Bell, Claim
from woolly_worker.ledger.store import Store
from woolly_worker.queue.runtime import Runtime
from woolly_worker.queue.solitude import Solitude
from woolly_worker.queue.tasks import JobFailed, run_job
from woolly_worker.settings import WorkerSettings


@contextmanager
def working(redis_url: str, engine: ScriptedEngine, lease: float = 5.0) -> Iterator[tuple[Runtime, Scripted]]:
    served, rung = Scripted(engine), list[Bell]()

    def load(settings: WorkerSettings, on_events: Any) -> Scripted:
        engine.on_events = on_events
        return served

    settings = WorkerSettings(redis_url=redis_url, model=Path("tiny.gguf"), threads=1, slots=4, lease_seconds=lease)
    runtime = Runtime(settings, load, rung.append)
    runtime.start()
    try:
        yield runtime, served
    finally:
        served.hold.set()
        runtime.drain(0.0)
        runtime.stop()


class Task(threading.Thread):
    """A bell that is being answered."""

    def __init__(self, runtime: Runtime, job_id: str) -> None:
        super().__init__(daemon=True)
        self._runtime, self._job_id = runtime, job_id
        self.report: dict[str, Any] | None = None
        self.start()

    def run(self) -> None:
        try:
            self.report = run_job(self._runtime, self._job_id, f"{self._job_id}.1")
        except JobFailed as failed:
            self.report = {"failed": str(failed)}


def suspect(ledger: Ledger, job_id: str = "suspect", **changes: Any) -> None:
    """A job that two workers were lost with."""
    ledger.submit(request(**changes), job_id=job_id)
    for worker in ("w1", "w2"):
        ledger.claim(job_id, worker, lease_seconds=5)
        ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    ledger.reap()  # back in the queue, ahead of the others


def is_alone(ledger: Ledger, job_id: str = "suspect") -> bool:
    return bool(ledger.client.hget(keys.job(job_id), "alone") == "1")


def is_sought(runtime: Runtime) -> bool:
    """Whether a task waits for solitude: then no company is let in."""
    with runtime.solitude.company(lambda: True) as free:
        return not free


def submitted(engine: ScriptedEngine) -> list[str]:
    return [request.job_id for request in engine.requests]


def test_the_ledger_knows_before_anything_is_looked_at_and_before_others_go_on(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine()
    known: list[tuple[str, bool, list[Any]]] = []
    suspect(ledger)
    with working(redis_url, engine) as (runtime, served):

        def watch(owner: Any, name: str) -> None:
            call = getattr(owner, name)

            def watched(*args: Any) -> Any:
                known.append((name, is_alone(ledger), engine.orders[1:]))
                return call(*args)

            monkeypatch.setattr(owner, name, watched)

        watch(Store, "tokens")
        watch(served.tokenizer, "encode_chat")
        task = Task(runtime, "suspect")
        eventually(lambda: engine.requests)
        # given: it is alone, from before its record and its prompt were looked at
        nobody = ("isolate", "", 0)
        assert known == [("tokens", True, [nobody]), ("encode_chat", True, [nobody, ("isolate", "suspect", 3)])]
        assert engine.requests[0].alone_until == PROBATION_TOKENS
        # when: it has passed
        rejoin, order = engine.rejoin, list[bool]()
        monkeypatch.setattr(engine, "rejoin", lambda *key: (order.append(is_alone(ledger)), rejoin(*key))[1])
        engine.on_events([token("suspect", 1, fence=3), ProbationPassed("suspect", 3)])
        eventually(lambda: order)
        # then: that was written before anybody else went on
        assert order == [False]
        assert ledger.view("suspect").last_seq == 1
        engine.on_events([done("suspect", 2, fence=3)])
        task.join(5)
    assert ledger.view("suspect").state is JobState.SUCCEEDED
    assert order == [False]  # and nobody rejoins twice


def test_an_end_is_written_before_others_go_on(ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [token(r.job_id, 1, r.fence), done(r.job_id, 2, r.fence)])
    states: list[JobState] = []
    monkeypatch.setattr(engine, "rejoin", lambda *key: states.append(ledger.view("suspect").state))
    suspect(ledger)
    with working(redis_url, engine) as (runtime, _):
        Task(runtime, "suspect").join(5)
    assert states == [JobState.SUCCEEDED]


def test_other_bells_wait_and_other_suspects_take_turns(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    suspect(ledger)
    suspect(ledger, "another")
    ledger.submit(request(), job_id="innocent")
    with working(redis_url, engine) as (runtime, _):
        tasks = [Task(runtime, "suspect")]
        eventually(lambda: submitted(engine) == ["suspect"])
        tasks += [Task(runtime, "another"), Task(runtime, "innocent")]
        time.sleep(0.3)
        assert submitted(engine) == ["suspect"]
        for job_id in ("another", "innocent"):
            assert ledger.view(job_id).state is JobState.QUEUED  # another worker may take it
        engine.on_events([ProbationPassed("suspect", 3)])
        eventually(lambda: "another" in submitted(engine))
        assert (is_alone(ledger), is_alone(ledger, "another")) == (False, True)
        engine.on_events([done("another", 1, fence=3)])
        eventually(lambda: "innocent" in submitted(engine))
        engine.on_events([done("suspect", 1, fence=3), done("innocent", 1)])
        for task in tasks:
            task.join(5)
    for job_id in ("suspect", "another", "innocent"):
        assert ledger.view(job_id).state is JobState.SUCCEEDED


def test_a_benchmark_waits_until_nobody_is_alone(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    suspect(ledger)
    with working(redis_url, engine) as (runtime, served):
        task = Task(runtime, "suspect")
        eventually(lambda: engine.requests)
        measuring = threading.Thread(target=runtime.benchmark, args=(BenchmarkType.TOKEN_GENERATION, 1))
        measuring.start()
        assert not served.measuring.wait(0.3)
        engine.on_events([ProbationPassed("suspect", 3)])
        assert served.measuring.wait(5)
        served.hold.set()
        measuring.join(5)
        engine.on_events([done("suspect", 1, fence=3)])
        task.join(5)


def is_expired(ledger: Ledger) -> bool:
    return ledger.view("suspect").state is JobState.EXPIRED


def take(ledger: Ledger) -> None:
    assert isinstance(ledger.claim("suspect", "another", lease_seconds=60, alone=True), Claim)


@pytest.mark.parametrize(
    ("interrupt", "state"),
    [
        (lambda runtime, ledger: ledger.cancel("suspect"), JobState.CANCELLED),
        (
            lambda runtime, ledger: eventually(lambda: ledger.view("suspect").state is JobState.EXPIRED),
            JobState.EXPIRED,
        ),
        (lambda runtime, ledger: runtime.begin_drain(), JobState.QUEUED),
        (lambda runtime, ledger: take(ledger), JobState.RUNNING),
    ],
    ids=["cancelled", "past its deadline", "drained", "taken by another worker"],
)
def test_a_suspect_that_waits_is_held_by_nobody(
    ledger: Ledger, redis_url: str, interrupt: Callable[[Runtime, Ledger], object], state: JobState
) -> None:
    engine = ScriptedEngine()
    ledger.submit(request(), job_id="busy")
    with working(redis_url, engine) as (runtime, _):
        busy = Task(runtime, "busy")
        eventually(lambda: engine.requests)
        suspect(ledger, deadline_seconds=2.0 if state is JobState.EXPIRED else None)
        with runtime.solitude.company(lambda: False):
            waiting = Task(runtime, "suspect")
            eventually(lambda: is_sought(runtime))
            assert ledger.view("suspect").state is JobState.QUEUED
            interrupt(runtime, ledger)
        waiting.join(5)
        assert waiting.report is not None
        view = ledger.view("suspect")
        assert (view.state, view.crashes) == (state, 2)
        engine.on_events([done("busy", 1)])
        busy.join(5)
    assert submitted(engine) == ["busy"]
    assert ledger.view("busy").state is JobState.SUCCEEDED


def test_a_suspect_that_passed_elsewhere_in_the_meantime_is_in_company(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    suspect(ledger)
    with working(redis_url, engine) as (runtime, _):
        with runtime.solitude.company(lambda: False):
            task = Task(runtime, "suspect")
            eventually(lambda: is_sought(runtime))
            ledger.client.hset(keys.job("suspect"), "history", "[]")
        eventually(lambda: engine.requests)
        eventually(lambda: not is_sought(runtime))
        assert not is_alone(ledger)
        engine.on_events([done("suspect", 1, fence=3)])
        task.join(5)
    assert ledger.view("suspect").state is JobState.SUCCEEDED


def let_no_suspect_be_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Ledger.claim

    def failing(self: Ledger, job_id: str, *args: Any, **options: Any) -> Any:
        if options.get("alone"):
            raise AssertionError("a bug of ours")
        return claim(self, job_id, *args, **options)

    monkeypatch.setattr(Ledger, "claim", failing)


def test_a_suspect_that_cannot_be_claimed_holds_up_nobody(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [done(r.job_id, 1)])
    suspect(ledger)
    ledger.submit(request(), job_id="innocent")
    let_no_suspect_be_claimed(monkeypatch)
    with working(redis_url, engine) as (runtime, _):
        for job_id in ("suspect", "innocent"):
            task = Task(runtime, job_id)
            task.join(5)
            assert task.report is not None
    assert ledger.view("suspect").state is JobState.QUEUED
    assert ledger.view("innocent").state is JobState.SUCCEEDED


def test_the_bell_of_a_suspect_that_cannot_be_claimed_serves_the_next_job(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [done(r.job_id, 1)])
    suspect(ledger)
    ledger.submit(request(), job_id="innocent")
    let_no_suspect_be_claimed(monkeypatch)
    with working(redis_url, engine) as (runtime, _):
        task = Task(runtime, "suspect")
        task.join(5)
        assert task.report is not None
        assert task.report["state"] == JobState.SUCCEEDED
    assert submitted(engine) == ["innocent"]


def test_a_cancel_between_solitude_and_the_engine_reaches_the_engine(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine()
    suspect(ledger)
    with working(redis_url, engine) as (runtime, served):

        def cancelling(rendered: str) -> list[int]:
            runtime.cancel("suspect", 3)
            return [1]

        served.tokenizer.encode_chat = cancelling  # type: ignore[method-assign]
        task = Task(runtime, "suspect")
        eventually(lambda: engine.requests)
        eventually(lambda: engine.orders.count(("cancel", "suspect", 3)) == 2)
        engine.on_events([done("suspect", 1, fence=3)])
        task.join(5)


def test_a_cancel_before_the_engine_has_a_job_that_has_passed_elsewhere_reaches_it(
    ledger: Ledger, redis_url: str
) -> None:
    engine = ScriptedEngine()
    suspect(ledger)
    with working(redis_url, engine) as (runtime, served):

        def cancelling(rendered: str) -> list[int]:
            runtime.cancel("suspect", 3)
            return [1]

        served.tokenizer.encode_chat = cancelling  # type: ignore[method-assign]
        with runtime.solitude.company(lambda: False):
            task = Task(runtime, "suspect")
            eventually(lambda: is_sought(runtime))
            ledger.client.hset(keys.job("suspect"), "history", "[]")
        eventually(lambda: engine.requests)
        eventually(lambda: engine.orders.count(("cancel", "suspect", 3)) == 2)
        engine.on_events([done("suspect", 1, fence=3)])
        task.join(5)


@pytest.mark.parametrize("lease", [0.4, 1.0])
def test_a_prompt_that_hangs_holds_up_the_others_for_two_leases_only(
    ledger: Ledger, redis_url: str, lease: float
) -> None:
    """Whether its claim is found out to be over before that, or not."""
    engine, hang, hanging = ScriptedEngine(), threading.Event(), threading.Event()
    suspect(ledger)
    ledger.submit(request(), job_id="innocent")
    with working(redis_url, engine, lease=lease) as (runtime, served):
        encode = served.tokenizer.encode_chat

        def hangs(text: Any) -> list[int]:
            hanging.set()
            hang.wait(20)
            return encode(text)

        served.tokenizer.encode_chat = hangs  # type: ignore[method-assign]
        first = Task(runtime, "suspect")
        assert hanging.wait(10)
        assert is_alone(ledger)
        served.tokenizer.encode_chat = encode  # type: ignore[method-assign]
        second = Task(runtime, "innocent")
        eventually(lambda: "innocent" in submitted(engine))
        engine.on_events([done("innocent", 1)])
        second.join(5)
        hang.set()
        eventually(lambda: "suspect" in submitted(engine) or not first.is_alive())
    assert ledger.view("innocent").state is JobState.SUCCEEDED


def test_company_that_hangs_is_not_waited_for() -> None:
    solitude, engine = Solitude(company_seconds=0.2), ScriptedEngine()
    with solitude.company(lambda: False) as free:
        assert free
        began = time.monotonic()
        with solitude.alone(engine, lambda: False) as alone:
            assert alone
            assert time.monotonic() - began > 0.1
            with solitude.company(lambda: True) as second:
                assert not second
            solitude.admit(("j", 1))
            solitude.leave(("another", 1))
            assert engine.orders == [("isolate", "", 0), ("isolate", "j", 1)]
            for _ in range(2):
                solitude.leave(("j", 1))
    assert engine.orders == [("isolate", "", 0), ("isolate", "j", 1), ("rejoin", "j", 1)]


def test_the_end_of_a_block_ends_no_other_solitude() -> None:
    solitude, engine = Solitude(company_seconds=60), ScriptedEngine()
    with solitude.alone(engine, lambda: False):
        solitude.admit(("j", 1))
        solitude.leave(("j", 1))
        second = solitude.alone(engine, lambda: False)
        assert second.__enter__()
        with solitude.alone(engine, lambda: True) as third:
            assert not third
    with solitude.company(lambda: True) as free:
        assert not free
    second.__exit__(None, None, None)
    with solitude.company(lambda: True) as free:
        assert free


def test_an_engine_that_does_not_get_to_it_is_not_waited_for_in_a_drain() -> None:
    class Busy(ScriptedEngine):
        def isolate(self, job_id: str, fence: int) -> threading.Event:
            return threading.Event()

    solitude, draining = Solitude(company_seconds=60), threading.Event()
    threading.Timer(0.2, draining.set).start()
    with solitude.alone(Busy(), draining.is_set) as alone:
        assert not alone


def test_a_request_without_probation_says_so(ledger: Ledger, redis_url: str) -> None:
    engine = ScriptedEngine(on_submit=lambda r: [done(r.job_id, 1)])
    ledger.submit(request(), job_id="j")
    with working(redis_url, engine) as (runtime, _):
        Task(runtime, "j").join(5)
    (seen,) = engine.requests
    assert isinstance(seen, EngineRequest)
    assert seen.alone_until is None
    assert engine.orders[:1] == [("start",)]
    assert not any(order[0] == "isolate" for order in engine.orders)
