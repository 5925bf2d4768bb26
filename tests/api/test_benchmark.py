"""POST /api/v1/performance/benchmark: what is refused at once, and what a worker's answer becomes."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from scripted_worker import MODEL, ScriptedWorker

from woolly_api.routes import performance
from woolly_worker.contract.benchmarks import BenchmarkAnswer, BenchmarkResult, BenchmarkType
from woolly_worker.contract.errors import BenchmarkRunning
from woolly_worker.contract.jobs import ErrorInfo
from woolly_worker.ledger import keys

PATH = "/api/v1/performance/benchmark"


def post(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post(PATH, json=body)


def result(test_type: str, iterations: int) -> BenchmarkResult:
    return BenchmarkResult(
        test_type=BenchmarkType(test_type),
        iterations=iterations,
        total_time_ms=100.0,
        average_time_ms=100.0 / iterations,
        tokens_per_second=iterations * 10.0,
        speedup_vs_baseline=7.0,
        baseline_iterations=1,
        baseline_average_time_ms=700.0 / iterations,
        measured="a script",
        model=MODEL,
        worker_id="worker-tiny",
        threads=2,
    )


@contextmanager
def answering(worker: ScriptedWorker, answer: Callable[[str, int], BenchmarkAnswer]) -> Iterator[None]:
    """Takes one call from the queue of the model, as Celery would, and answers it."""

    def run() -> None:
        message: Any = worker.ledger.client.brpop([keys.benchmarks(MODEL)], timeout=10)
        envelope = json.loads(message[1])
        assert envelope["headers"]["task"] == keys.TASK_BENCHMARK
        assert envelope["headers"]["expires"] is None  # by whose clock?
        (call_id, test_type, iterations), *_ = json.loads(base64.b64decode(envelope["body"]))
        assert worker.registry.is_awaited(call_id)
        worker.registry.answer(call_id, answer(test_type, iterations))

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def test_a_workers_measurement_is_the_answer(http: httpx.Client, worker: ScriptedWorker) -> None:
    with answering(worker, lambda kind, n: BenchmarkAnswer(result=result(kind, n))):
        response = post(http, test_type="token_generation", iterations=4)
    assert response.status_code == 200
    body = response.json()
    assert (body["test_type"], body["iterations"], body["model"]) == ("token_generation", 4, MODEL)
    assert (body["average_time_ms"], body["tokens_per_second"], body["speedup_vs_baseline"]) == (25.0, 40.0, 7.0)


def test_iterations_have_a_default(http: httpx.Client, worker: ScriptedWorker) -> None:
    with answering(worker, lambda kind, n: BenchmarkAnswer(result=result(kind, n))):
        assert post(http, test_type="matrix_multiplication").json()["iterations"] == 50


def test_an_unknown_type_has_a_code_of_its_own(http: httpx.Client) -> None:
    response = post(http, test_type="teleportation")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("INVALID_BENCHMARK_TYPE", "test_type")
    assert "memory_allocation" in error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"test_type": "token_generation", "iterations": 65}, "iterations is 65, token_generation takes at most 64"),
        ({"test_type": "token_generation", "iterations": 0}, "greater than or equal to 1"),
        ({"test_type": "token_generation", "repeat": 3}, "repeat: unknown parameter"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_limit(http: httpx.Client, body: dict[str, Any], said: str) -> None:
    response = post(http, **body)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_without_a_live_worker_it_says_so(http: httpx.Client, worker: ScriptedWorker) -> None:
    response = post(http, test_type="token_generation", model="another")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_worker")
    worker.registry.leave(f"worker-{MODEL}")
    response = post(http, test_type="token_generation")
    assert (response.status_code, response.json()["error"]["message"]) == (503, "no worker is ready")


def test_a_worker_that_measures_already_is_a_429(http: httpx.Client, worker: ScriptedWorker) -> None:
    busy = BenchmarkAnswer(error=ErrorInfo.of(BenchmarkRunning("this worker runs a benchmark already")))
    with answering(worker, lambda kind, n: busy):
        response = post(http, test_type="memory_allocation")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "benchmark_running")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.usefixtures("worker")
def test_no_answer_in_time_is_a_504(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "BENCHMARK_SECONDS", 0.3)
    response = post(http, test_type="memory_allocation")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "benchmark_timeout")
