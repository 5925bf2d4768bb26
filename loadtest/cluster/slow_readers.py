"""What fifty clients that never read cost the engine, the API and a client that does.

    python loadtest/cluster/slow_readers.py [--readers 50] [--tokens 400] [--rounds 3] [--pace 30]

Starts `woolly up` with the demo model. Every client follows the same job; those that do not read have tiny receive
buffers, so that what they leave behind is the API's and Redis's to bear. Printed with and without them, in turns: the
job's decode rate, the median and p99 gap between two tokens of the client that reads, how long behind the job's last
token it has read it, and the memory of the API process (Linux: VmRSS) and of Redis.

With `--pace`, the tokens are not the model's: they are written through the ledger, so many per second, as a worker with
a larger model would.
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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis

from woolly_api.client import WoollyClient
from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, SamplingParams, Usage
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry
from woolly_worker.ledger.records import Claim, Emission, Finish

RECEIVE_BUFFER_BYTES = 2048
PACED_MODEL = "paced"  # no worker has it


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


@dataclass
class Round:
    tokens_per_second: float
    gaps: list[float]  # seconds between tokens as the reading client sees them
    late_seconds: float  # from the terminal event in Redis to its reader

    def __str__(self) -> str:
        p50, p99 = statistics.median(self.gaps), statistics.quantiles(self.gaps, n=100)[98]
        return (
            f"{self.tokens_per_second:6.1f} tokens/s  gaps p50 {1000 * p50:.2f} ms  p99 {1000 * p99:.2f} ms"
            f"  last token {1000 * self.late_seconds:.0f} ms late"
        )


def one_round(client: WoollyClient, redis: Redis, n_deaf: int, n_tokens: int, pace: float | None) -> Round:
    sampling = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
    model = "woolly-demo" if pace is None else PACED_MODEL
    job = client.submit(JobRequest(model=model, prompt="Once upon a time", sampling=sampling))
    with ExitStack() as ending:
        for _ in range(n_deaf):
            ending.enter_context(closing(deaf(client.base_url, job.id)))
        if pace is not None:
            writer = threading.Thread(target=write, args=(Ledger(redis), job.id, n_tokens, pace))
            writer.start()
            ending.callback(writer.join)
        times = [time.perf_counter() for event in client.events(job.id) if isinstance(event, TokenEvent)]
        read_ms = 1000 * time.time()  # the same host's clock as Redis's
        ended_ms = int(str(redis.hget(keys.job(job.id), "finished_ms")))
        result = client.wait(job.id).result
    assert result is not None
    gaps = [b - a for a, b in itertools.pairwise(times)]
    return Round(result.metrics.decode_tokens_per_second or 0.0, gaps, (read_ms - ended_ms) / 1000)


def write(ledger: Ledger, job_id: str, n_tokens: int, pace: float) -> None:
    """A worker whose model takes 1 / `pace` seconds per token."""
    claim = ledger.claim(job_id, "paced", lease_seconds=60)
    assert isinstance(claim, Claim)
    began = time.perf_counter()
    for seq in range(1, n_tokens + 1):
        time.sleep(max(0.0, began + seq / pace - time.perf_counter()))
        ledger.emit([Emission(job_id, claim.fence, TokenEvent(seq=seq, token_id=1, text=" word"))], lease_seconds=60)
    metrics = JobMetrics(decode_tokens_per_second=n_tokens / (time.perf_counter() - began))
    done = DoneEvent(seq=n_tokens + 1, finish_reason="length", usage=Usage(), metrics=metrics)
    ledger.finish(Finish(job_id, claim.fence, PACED_MODEL, done, (1,) * n_tokens, n_tokens * " word"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients that never read.")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pace", type=float, help="tokens per second; default: as fast as the demo model")
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
                ModelRegistry(redis).announce(ModelCard(name=PACED_MODEL, architecture="llama", n_ctx=4096))
                one_round(client, redis, 0, 32, None)
                for _ in range(options.rounds):
                    for n_deaf in (0, options.readers):
                        measured = one_round(client, redis, n_deaf, options.tokens, options.pace)
                        used = int(redis.info("memory")["used_memory"])
                        print(
                            f"{n_deaf:3} deaf: {measured}"
                            f"  API {rss_bytes(pid) / 1e6:.0f} MB  Redis {used / 1e6:.1f} MB",
                            flush=True,
                        )
        finally:
            cluster.send_signal(signal.SIGTERM)
            cluster.wait(60)


if __name__ == "__main__":
    main()
