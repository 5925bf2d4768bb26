"""How long a stream stands still when its worker dies, by the way it dies, with a second worker ready.

python loadtest/faults/failover.py [ROUNDS]: a server, two `woolly worker` with the demo model, one job at a time. The
pause is from the kill to the next token, by the clock of this process. "worker" is killed while its parent lives, so
that its death is certified; "both" die together, and only the lease tells.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelRegistry, WorkerBeat
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.app import create_app

START_SECONDS = 300.0
WAYS = ("worker", "both")
SAMPLING = SamplingParams(max_tokens=3000, temperature=0.8, seed=1, ignore_eos=True)


class Machine:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url)
        self.ledger, self.registry = Ledger(self.client), ModelRegistry(self.client)
        self.app: Any = create_app(url)
        self.workers: list[subprocess.Popen[bytes]] = []

    def have_two(self) -> None:
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        command = [
            sys.executable,
            "-m",
            "woolly_api.cli",
            "worker",
            "--model",
            "demo",
            "--threads",
            "1",
            "--ctx",
            "4096",
        ]
        while len(self.workers) < 2:
            self.workers.append(
                subprocess.Popen([*command, "--redis", self.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        wanted = {worker.pid for worker in self.workers}
        wait_for(lambda: wanted == {beat.parent_pid for beat in self.registry.workers() if beat.state == "ready"})

    def pause_seconds(self, way: str) -> float:
        submitted = self.ledger.submit(JobRequest(model="woolly-demo", prompt="Once upon a time", sampling=SAMPLING))
        assert submitted.bell is not None
        self.app.send_task(**submitted.bell.send_task_options())
        job_id = submitted.job_id
        wait_for(lambda: self.ledger.view(job_id).last_seq >= 5)
        owner = self.client.hget(keys.job(job_id), "owner")
        beat: WorkerBeat = next(beat for beat in self.registry.workers() if beat.worker_id == owner)
        victim = beat.pid if way == "worker" else beat.parent_pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        killed = time.perf_counter()
        wait_for(lambda: not psutil.pid_exists(beat.pid) or psutil.Process(beat.pid).status() == "zombie")
        seq = self.ledger.view(job_id).last_seq
        wait_for(lambda: self.ledger.view(job_id).last_seq > seq)
        seconds = time.perf_counter() - killed
        self.ledger.cancel(job_id)
        return seconds

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait()
        self.app.close()


def wait_for(condition: Any) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while not condition():
        if time.perf_counter() > deadline:
            raise SystemExit("it did not happen in time")
        time.sleep(0.01)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        machine = Machine(server.url)
        with closing(machine):
            machine.have_two()
            parent = psutil.Process(machine.workers[0].pid).memory_full_info()
            print(
                f"memory of a worker's parent: {parent.uss / 2**20:.1f} MiB of its own, {parent.rss / 2**20:.1f} in all"
            )
            for way in WAYS:
                pauses = []
                for _ in range(rounds):
                    machine.have_two()
                    pauses.append(machine.pause_seconds(way))
                said = " ".join(f"{seconds:.2f}" for seconds in pauses)
                print(f"killed: {way:<7} pause {median(pauses):.2f} s (median of {said})", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
