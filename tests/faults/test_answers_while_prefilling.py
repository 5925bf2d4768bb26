"""Health and metrics answer while every core prefills: the engine's process is not the one that is asked.

How soon, as a p99, is what loadtest/cluster/health.py measures. Here the bound is twenty times that promise, so that
only an answer which waits for prefills fails, and no busy machine.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from cluster import Cluster

PATHS = ("/healthz", "/readyz", "/metrics")
ROUNDS = 30
N_PROMPT = 400  # tokens, none of them seen before: no prefix cache
AT_ONCE = 8
LONGEST_SECONDS = 2.0


class Prefills:
    """Jobs of nothing but prefill, as many at once as the worker has slots, as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self.endings: list[str] = []
        self._url = url
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Prefills"]:
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            turn = 0
            while not self._over.is_set():
                turn += 1
                prompt = [3 + (number * 7919 + turn * 104729 + i * 31) % 200 for i in range(N_PROMPT)]
                body = {"model": "woolly-demo", "prompt": prompt, "sampling": {"max_tokens": 1}}
                job = http.post("/v1/jobs", json=body).json()
                self.endings.append(http.get(f"/v1/jobs/{job['id']}?wait=60").json()["state"])


def test_health_and_metrics_answer_while_every_core_prefills(cluster: Cluster) -> None:
    with httpx.Client(base_url=cluster.api_url, timeout=30) as http, Prefills(cluster.api_url).running() as prefills:
        while not prefills.endings:  # it takes them
            time.sleep(0.01)
        before, took = len(prefills.endings), []
        for _ in range(ROUNDS):
            for path in PATHS:
                began = time.monotonic()
                assert http.get(path).status_code == 200
                took.append(time.monotonic() - began)
        meanwhile = len(prefills.endings) - before

    assert meanwhile > 0, "nothing was prefilled meanwhile"
    assert set(prefills.endings) == {"succeeded"}
    assert max(took) < LONGEST_SECONDS
