"""A worker's benchmark: one at a time, an answer in any case, and no worker that ends without it."""

import threading
from contextlib import closing
from typing import Any

import pytest
from scripted import ScriptedEngine, eventually
from test_tasks import working

from woolly_worker.contract.benchmarks import BenchmarkAnswer
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.queue.tasks import run_benchmark


def answer_to(redis_url: str, call_id: str) -> BenchmarkAnswer:
    with closing(connect(redis_url)) as client:
        text: Any = client.get(keys.benchmark(call_id))
        assert 0 < int(client.ttl(keys.benchmark(call_id))) <= keys.BENCHMARK_TTL_SECONDS  # type: ignore[arg-type]
    return BenchmarkAnswer.model_validate_json(text)


def test_one_at_a_time(redis_url: str) -> None:
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        served: Any = runtime._served
        # given: one that goes on
        first = threading.Thread(target=run_benchmark, args=(runtime, "first", "token_generation", 5))
        first.start()
        eventually(served.measuring.is_set)
        # when: another one comes
        assert run_benchmark(runtime, "second", "token_generation", 5) == {"error": "benchmark_running"}
        # then: it is told, and the first one ends with its numbers
        served.hold.set()
        first.join(5)
        refused, measured = answer_to(redis_url, "second"), answer_to(redis_url, "first").result
        assert refused.error is not None
        assert refused.error.http_status == 429
        assert measured is not None
        assert (measured.total_time_ms, measured.average_time_ms, measured.tokens_per_second) == (500.0, 100.0, 10.0)
        assert measured.speedup_vs_baseline == pytest.approx(10.0)
        assert measured.worker_id == runtime.worker_id


def test_a_drain_ends_it(redis_url: str) -> None:
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        served: Any = runtime._served
        thread = threading.Thread(target=run_benchmark, args=(runtime, "call", "memory_allocation", 5))
        thread.start()
        eventually(served.measuring.is_set)
        runtime.begin_drain()
        thread.join(5)
        assert not thread.is_alive()
        error = answer_to(redis_url, "call").error
        assert error is not None
        assert error.code == "cancelled"


def test_our_bugs_are_answered_too(redis_url: str) -> None:
    with working(redis_url, ScriptedEngine()) as (runtime, _):
        assert run_benchmark(runtime, "call", "no_such_type", 5) == {"error": "internal_error"}
        error = answer_to(redis_url, "call").error
        assert error is not None
        assert error.code == "internal_error"
