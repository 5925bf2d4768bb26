"""The pool without Celery's worker around it."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from woolly_worker.queue import pool as pools
from woolly_worker.queue.pool import EnginePool


def make_pool() -> Any:
    idle = SimpleNamespace(drain=lambda seconds: None, stop=lambda: None)
    return EnginePool(limit=1, app=SimpleNamespace(runtime=idle, settings=SimpleNamespace(drain_seconds=0.0)))


def apply(pool: Any, task: Callable[[], Any]) -> None:
    pool.on_apply(
        task, (), {}, callback=lambda result: None, accept_callback=lambda pid, when: None, correlation_id="j.1"
    )


def test_a_stop_waits_for_the_reports_of_tasks() -> None:
    reported: list[None] = []
    pool = make_pool()
    apply(pool, lambda: (time.sleep(0.1), reported.append(None)))
    pool.on_stop()
    assert reported == [None]
    assert not pool.stuck


def test_a_task_that_never_returns_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "STOP_SECONDS", 0.1)
    pool, gate, started = make_pool(), threading.Event(), threading.Event()

    def never() -> None:
        started.set()
        gate.wait(30)

    apply(pool, never)
    assert started.wait(5)
    began = time.monotonic()
    try:
        pool.on_stop()
        assert pool.stuck
        assert time.monotonic() - began < 5
    finally:
        gate.set()
