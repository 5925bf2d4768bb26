"""What fifty clients that never read cost the engine, the API and a client that does.

    python loadtest/cluster/slow_readers.py [--readers 50] [--tokens 400] [--rounds 3]

Starts `woolly up` with the demo model. Every client follows the same job; those that do not read have tiny receive
buffers, so that what they leave behind is the API's and Redis's to bear. Printed with and without them, in turns: the
job's decode rate, the median and p99 gap between two tokens of the client that reads, and the memory of the API process
(Linux: VmRSS) and of Redis.
"""

import argparse
import itertools
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

from woolly_api.client import WoollyClient
from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger.connection import connect

RECEIVE_BUFFER_BYTES = 2048


def deaf(url: str, job_id: str) -> socket.socket:
    """A client that asks for the events of a job and never reads them."""
    address = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    client.connect((address.hostname, address.port))
    client.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    return client


def rss_bytes(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def api_pid(cluster_pid: int) -> int:
    children = Path(f"/proc/{cluster_pid}/task/{cluster_pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"\0api\0" in Path(f"/proc/{pid}/cmdline").read_bytes())


def one_round(client: WoollyClient, n_deaf: int, n_tokens: int) -> tuple[float, list[float]]:
    """The job's decode rate, and the seconds between tokens as the reading client sees them."""
    sampling = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
    job = client.submit(JobRequest(model=client.models()[0].id, prompt="Once upon a time", sampling=sampling))
    with ExitStack() as ending:
        for _ in range(n_deaf):
            ending.enter_context(closing(deaf(client.base_url, job.id)))
        times = [time.perf_counter() for event in client.events(job.id) if isinstance(event, TokenEvent)]
        result = client.wait(job.id).result
    assert result is not None
    return result.metrics.decode_tokens_per_second or 0.0, [b - a for a, b in itertools.pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients that never read.")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["up", "--model", "demo", "--state-dir", folder, "--port", "0", "--no-flower"]
        command = [sys.executable, "-m", "woolly_api.cli", *words]
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            found: dict[str, str] = {}
            assert cluster.stdout is not None
            for line in cluster.stdout:
                if match := re.search(r"(API|Redis) +(\S+://[^ ]+)", line):
                    found[match[1]] = match[2].strip()
                if "ready; Ctrl-C" in line:
                    break
            threading.Thread(target=lambda: [None for _ in cluster.stdout or ()], daemon=True).start()
            pid = api_pid(cluster.pid)
            with WoollyClient(found["API"]) as client, closing(connect(found["Redis"])) as redis:
                one_round(client, 0, 32)
                for _ in range(options.rounds):
                    for n_deaf in (0, options.readers):
                        rate, gaps = one_round(client, n_deaf, options.tokens)
                        used = int(redis.info("memory")["used_memory"])
                        print(
                            f"{n_deaf:3} deaf: {rate:6.1f} tokens/s  gaps p50 {1000 * statistics.median(gaps):.2f} ms"
                            f"  p99 {1000 * statistics.quantiles(gaps, n=100)[98]:.2f} ms"
                            f"  API {rss_bytes(pid) / 1e6:.0f} MB  Redis {used / 1e6:.1f} MB",
                            flush=True,
                        )
        finally:
            cluster.send_signal(signal.SIGTERM)
            cluster.wait(60)


if __name__ == "__main__":
    main()
