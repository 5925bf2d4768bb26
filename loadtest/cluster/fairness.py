"""How long a tenant's first job waits behind another tenant's backlog, on a real worker.

    python loadtest/cluster/fairness.py [--backlog 10000] [--rounds 5] [--slots 4]

Starts an embedded server and one worker with the demo model, queues the backlog for tenant `a`, and then, one after the
other, first jobs of tenants that have nothing else queued. Two numbers of each: how many of the backlog's jobs were
started between its submit and its start, and its seconds in the queue. The slots are full all the time, so with S
slots a job cannot start before one of S has ended.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from zlib import crc32

from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelRegistry
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.app import create_app

MODEL = "tiny"
START_SECONDS = 240.0
WAIT_SECONDS = 600.0


def colliding(tenant: str, n: int) -> list[str]:
    """Tenants whose names hash as `tenant`'s modulo 8, which was the number of queues in Woolly 0.1."""
    names = (f"first-{i}" for i in range(100 * n))
    return [name for name in names if crc32(name.encode()) % 8 == crc32(tenant.encode()) % 8][:n]


class Queue:
    def __init__(self, url: str) -> None:
        self.client = connect(url)
        self.ledger = Ledger(self.client)
        self._app = create_app(url)

    def submit(self, tenant: str, n_tokens: int) -> str:
        sampling = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
        request = JobRequest(model=MODEL, prompt="Once upon a time", tenant=tenant, sampling=sampling)
        submitted = self.ledger.submit(request)
        assert submitted.bell is not None
        self._app.send_task(**submitted.bell.send_task_options())
        return submitted.job_id

    def n_started(self) -> int:
        counts = self.ledger.lane_counts(MODEL)
        return counts.running + counts.succeeded

    def first_job(self, tenant: str, n_tokens: int) -> tuple[int, float]:
        """Jobs of others started before it, and its seconds in the queue by Redis's clock."""
        before = self.n_started()
        job_id = self.submit(tenant, n_tokens)
        began = time.monotonic()
        while (started := self.client.hget(keys.job(job_id), "started_ms")) is None:
            if time.monotonic() - began > WAIT_SECONDS:
                raise SystemExit(f"not started within {WAIT_SECONDS:.0f} s; {self.n_started() - before} others were")
            time.sleep(0.001)
        others = self.n_started() - before - 1
        created = self.client.hget(keys.job(job_id), "created_ms")
        return others, (int(str(started)) - int(str(created))) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="A first job behind a backlog.")
    parser.add_argument("--backlog", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        queue = Queue(server.url)
        with closing(queue.client):
            began = time.monotonic()
            for _ in range(options.backlog):
                queue.submit("a", options.tokens)
            print(f"{options.backlog} jobs queued in {time.monotonic() - began:.1f} s", flush=True)
            env = {
                **os.environ,
                "WOOLLY_REDIS_URL": server.url,
                "WOOLLY_MODEL_NAME": MODEL,
                "WOOLLY_SLOTS": str(options.slots),
                "WOOLLY_LOG_LEVEL": "error",
            }
            worker = subprocess.Popen([sys.executable, "-m", "woolly_api.cli", "worker", "--model", "demo"], env=env)
            try:
                registry = ModelRegistry(queue.client)
                while not any(beat.state == "ready" for beat in registry.workers()):
                    assert worker.poll() is None, "the worker ended"
                    time.sleep(0.05)
                found = [queue.first_job(name, options.tokens) for name in colliding("a", options.rounds)]
            finally:
                worker.terminate()
                worker.wait()
    others, seconds = zip(*found, strict=True)
    print(f"jobs of the backlog started before a first job: {list(others)}, median {statistics.median(others):g}")
    print(f"its wait: {[round(s, 3) for s in seconds]} s, median {statistics.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
