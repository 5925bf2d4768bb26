"""Flower with Woolly's configuration, as `woolly flower` starts it: a real process in front of a real server."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from woolly_worker.contract.jobs import JobRequest
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import BufferStats, ModelCard, ModelRegistry, WorkerBeat, WorkerStats
from woolly_worker.ledger.server import EmbeddedServer, free_port
from woolly_worker.queue.flower_metrics import BUFFER_SERIES, WORKER_SERIES, WoollyCollector

FOX = WorkerBeat(
    worker_id="w1",
    model="fox",
    hostname="here",
    pid=1,
    stats=WorkerStats(
        slots=8,
        running=3,
        kv_blocks_total=64,
        generated_tokens_total=1234,
        decode_tokens_per_second=12.5,
        major_faults_total=17,
        buffers={"above_1mb": BufferStats(used_bytes=4096, leases=1, leases_total=10, reused_total=9)},
    ),
)


@pytest.fixture
def announced(redis_url: str) -> str:
    """A server that knows a worker and two jobs for its model."""
    with connect(redis_url) as client:
        registry = ModelRegistry(client)
        registry.announce(ModelCard(name="fox", architecture="llama", n_ctx=128))
        registry.beat(FOX)
        ledger = Ledger(client)
        ids = [ledger.submit(JobRequest(model="fox", prompt="a secret")).job_id for _ in range(3)]
        ledger.cancel(ids[0])
    return redis_url


@pytest.fixture
def flower(announced: str) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "woolly_api.cli", "flower", "--port", str(port)],
        env={**os.environ, "WOOLLY_REDIS_URL": announced},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                get(f"{url}/healthcheck")
                break
            except OSError:
                assert process.poll() is None, "flower ended"
                assert time.monotonic() < deadline, "flower does not answer"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        return str(response.read().decode())


def test_flower_serves_its_pages_and_our_metrics(flower: str) -> None:
    text = get(f"{flower}/metrics")
    assert "flower_events_total" in text
    assert "woolly_up 1.0" in text
    assert 'woolly_worker_decode_tokens_per_second{model="fox",worker="w1"} 12.5' in text
    assert 'woolly_worker_generated_tokens_total{model="fox",worker="w1"} 1234.0' in text
    assert 'woolly_worker_kv_blocks{model="fox",worker="w1"} 64.0' in text
    assert 'woolly_worker_major_faults_total{model="fox",worker="w1"} 17.0' in text
    assert 'woolly_worker_buffers_leased_total{model="fox",size="above_1mb",worker="w1"} 10.0' in text
    assert 'woolly_worker_buffers_reused_total{model="fox",size="above_1mb",worker="w1"} 9.0' in text
    assert 'woolly_worker_buffers_leases{model="fox",size="above_1mb",worker="w1"} 1.0' in text
    assert 'woolly_jobs{model="fox",state="queued"} 2.0' in text
    assert 'woolly_jobs_ended_total{model="fox",state="cancelled"} 1.0' in text
    assert "secret" not in text
    assert "Flower" in get(f"{flower}/workers")


def test_an_absent_ledger_is_told_and_nothing_else() -> None:
    families = list(WoollyCollector(f"redis://127.0.0.1:{free_port()}/0").collect())
    assert [(sample.name, sample.value) for family in families for sample in family.samples] == [("woolly_up", 0)]


def test_every_series_is_a_field_of_the_heartbeat(redis_server: EmbeddedServer) -> None:
    assert set(WORKER_SERIES) <= set(WorkerStats.model_fields)
    # A constant, what a query computes from two others, and shares by name: not series of their own.
    others = {"kv_block_tokens", "prefix_hit_rate", "step_shares", "buffers"}
    assert set(WORKER_SERIES) == set(WorkerStats.model_fields) - others
    assert set(BUFFER_SERIES) == set(BufferStats.model_fields) - {"reuse_rate"}
