"""/healthz, /readyz, /metrics, /api/v1/performance/stats and the documentation page."""

import httpx
import pytest
from harness import RunningApi
from scripted_worker import MODEL, ScriptedWorker


def test_ready_needs_a_worker(http: httpx.Client, redis_url: str, worker: ScriptedWorker) -> None:
    assert http.get("/readyz").json()["checks"]["workers"]["ready"] == 1
    assert http.get("/readyz").status_code == 200
    worker.registry.leave(f"worker-{MODEL}")
    away = http.get("/readyz")
    assert away.status_code == 503
    assert away.json()["status"] == "not_ready"
    assert away.json()["checks"] == {
        "redis": {
            "status": "ok",
            "persistence": {"appendonly": "yes", "appendfsync": "everysec", "may_lose": "the last second"},
        },
        "workers": {"status": "none ready", "ready": 0, "alive": 0},
    }


def test_metrics(api: RunningApi, http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()
    worker.beat(running=3, decode_tokens_per_second=17.5, generated_tokens_total=99)
    http.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
    http.get("/v1/jobs/nope")
    text = http.get("/metrics").text
    assert api.metric("woolly_api_requests_total", method="POST", route="/v1/completions", status="200") == 1
    assert api.metric("woolly_api_requests_total", method="GET", route="/v1/jobs/{job_id}", status="404") == 1
    assert api.metric("woolly_api_request_seconds_count", method="POST", route="/v1/completions") == 1
    assert "nope" not in text
    assert f'woolly_jobs{{model="{MODEL}",state="succeeded"}} 1.0' in text
    assert f'woolly_workers{{model="{MODEL}",state="ready"}} 1.0' in text
    assert f'woolly_worker_decode_tokens_per_second{{model="{MODEL}",worker="worker-{MODEL}"}} 17.5' in text
    assert f'woolly_worker_generated_tokens_total{{model="{MODEL}",worker="worker-{MODEL}"}} 99.0' in text
    assert "woolly_redis_up 1.0" in text


def test_stats_are_those_of_the_workers(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.serve()
    for _ in range(2):
        http.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
    worker.beat(
        running=2,
        waiting=1,
        prompt_tokens_total=200,
        cached_tokens_total=150,
        rss_bytes=512 * 1024 * 1024,
        decode_tokens_per_second=31.0,
        prefill_tokens_per_second=90.0,
        minor_faults_total=5,
        buffers={"1kb_to_1mb": {"leases_total": 8, "reused_total": 6, "reuse_rate": 0.75}},
    )
    stats = http.get("/api/v1/performance/stats").json()
    assert stats["model_type"] == "llama Q8_0"
    assert stats["average_tokens_per_second"] == pytest.approx(25.0)  # what the script reports for each job
    assert stats["jobs_measured"] == 2
    assert stats["memory_usage_mb"] == 512.0
    assert stats["cache_hit_rate"] == 0.75
    assert stats["optimizations_enabled"] == ["continuous_batching", "prefix_cache"]
    assert stats["current_tokens_per_second"] == 31.0
    assert (stats["jobs_running"], stats["jobs_waiting"]) == (2, 1)
    assert stats["workers"][0]["worker_id"] == f"worker-{MODEL}"
    assert stats["workers"][0]["stats"]["minor_faults_total"] == 5
    assert stats["workers"][0]["stats"]["buffers"]["1kb_to_1mb"]["reuse_rate"] == 0.75


def test_stats_without_data_invent_nothing(http: httpx.Client, redis_url: str) -> None:
    stats = http.get("/api/v1/performance/stats").json()
    assert stats["average_tokens_per_second"] is None
    assert stats["memory_usage_mb"] is None
    assert stats["cache_hit_rate"] is None
    assert stats["optimizations_enabled"] == []
    assert stats["workers"] == []


def test_the_documentation_reads_well(http: httpx.Client) -> None:
    assert http.get("/docs").status_code == 200
    spec = http.get("/openapi.json").json()
    tags = {tag["name"] for tag in spec["tags"]}
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert set(operation["tags"]) <= tags, path
            assert operation["tags"], path
            # 400 is what we answer to a wrong request; a 422 is never FastAPI's, but that of an Idempotency-Key.
            if "422" in operation["responses"]:
                assert "Idempotency-Key" in operation["responses"]["422"]["description"], path
                assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]], path
            if not set(operation["tags"]) & {"Health"}:
                assert operation["responses"]["503"]["content"], path
    for schema in ("CompletionRequest", "ChatCompletionRequest"):
        fields = spec["components"]["schemas"][schema]["properties"]
        assert {"max_tokens", "top_k", "logit_bias", "stop"} <= set(fields)
        assert [name for name, field in fields.items() if "description" not in field] == []
