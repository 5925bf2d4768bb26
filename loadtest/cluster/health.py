"""How soon /healthz, /readyz and /metrics answer while every core prefills.

    python loadtest/cluster/health.py [--model demo] [--seconds 20] [--every 0.05]

Starts `woolly up` (threads: all cores), keeps its slots busy with long prompts of one token each, asks every address in
turn over one connection each, and prints p50, p99 and the longest answer. First without load, for comparison.
"""

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

PATHS = ("/healthz", "/readyz", "/metrics")
START_SECONDS = 600.0


class Load:
    """Jobs of nothing but prefill: as many in flight as there are threads, none with a prompt seen before."""

    def __init__(self, url: str, model: str, n_prompt: int, n_in_flight: int) -> None:
        self.n_done = 0
        self._url, self._model, self._n_prompt = url, model, n_prompt
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(n_in_flight)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as http:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                prompt = [3 + (number * 7919 + turn * 104729 + i * 31) % 200 for i in range(self._n_prompt)]
                body = {"model": self._model, "prompt": prompt, "sampling": {"max_tokens": 1}}
                job = http.post("/v1/jobs", json=body).json()
                ended = http.get(f"/v1/jobs/{job['id']}?wait=60").json()
                assert ended["state"] == "succeeded", ended["state"]
                self.n_done += 1


def ask(url: str, seconds: float, every: float) -> dict[str, list[float]]:
    """Milliseconds of every answer, by path."""
    found: dict[str, list[float]] = {path: [] for path in PATHS}
    with httpx.Client(base_url=url, timeout=30) as http:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for path in PATHS:
                began = time.perf_counter()
                answer = http.get(path)
                found[path].append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200, (path, answer.status_code)
                time.sleep(every)
    return found


def say(what: str, found: dict[str, list[float]]) -> None:
    for path, times in found.items():
        p99 = statistics.quantiles(times, n=100)[98]
        print(
            f"{what:8} {path:9} n {len(times):4}  p50 {statistics.median(times):6.1f} ms"
            f"  p99 {p99:6.1f} ms  longest {max(times):6.1f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Health checks beside a prefill on all cores.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=0.02)
    parser.add_argument("--prompt", type=int, default=200, help="tokens")
    parser.add_argument("--in-flight", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = ["up", "--model", options.model, "--state-dir", str(Path(folder)), "--port", "0", "--no-flower"]
        cluster = subprocess.Popen(
            [sys.executable, "-m", "woolly_api.cli", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            url = _api_url(cluster)
            threading.Thread(target=lambda: [None for _ in cluster.stdout or ()], daemon=True).start()
            model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
            say("idle", ask(url, options.seconds / 4, options.every))
            with Load(url, model, options.prompt, options.in_flight) as load:
                time.sleep(1)
                before, began = load.n_done, time.monotonic()
                say("prefill", ask(url, options.seconds, options.every))
                rate = (load.n_done - before) * options.prompt / (time.monotonic() - began)
            print(f"{rate:.0f} prompt tokens/s meanwhile")
        finally:
            cluster.send_signal(signal.SIGTERM)
            cluster.wait(60)


def _api_url(cluster: "subprocess.Popen[str]") -> str:
    """Once it says that it is ready."""
    assert cluster.stdout is not None
    url, until = "", time.monotonic() + START_SECONDS
    for line in cluster.stdout:
        if match := re.search(r"API +(http://[^ ]+)", line):
            url = match[1]
        if "ready; Ctrl-C" in line and url:
            return url
        if time.monotonic() > until:
            break
    raise SystemExit("the cluster did not become ready")


if __name__ == "__main__":
    main()
