"""Worker processes for tests: the real thing, a little slowed down (see paced_worker.py), on a server of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from scripted import eventually

from woolly_worker.contract.jobs import JobRequest, JobResult, JobView, SamplingParams
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelRegistry, WorkerBeat
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.app import create_app

START_SECONDS = 240.0  # the first worker on a machine compiles all kernels
PACE_SECONDS = 0.02
N_TOKENS = 80  # so that a job takes about two seconds
PROMPT = "Once upon a time there was a secretive fox"
PACED_WORKER = Path(__file__).with_name("paced_worker.py")
TREE = Path(__file__).parents[3]  # the code under test, which need not be what is installed


class Workers:
    """As many workers as a test asks for; the ones that it ended are started again for the next. `env` is theirs."""

    def __init__(self, server: EmbeddedServer, logs: Path, program: Path = PACED_WORKER, **env: str) -> None:
        self.client = connect(server.url)
        self.ledger = Ledger(self.client)
        self.registry = ModelRegistry(self.client)
        self.app: Any = create_app(server.url)
        self.url, self.logs = server.url, logs
        self.program, self.env = program, env
        self.processes: list[subprocess.Popen[bytes]] = []
        self.n_started = 0

    def close(self) -> None:
        for process in list(self.processes):
            process.kill()
            process.wait()
        self.app.close()
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def have(self, n: int, **more: str) -> None:
        """So many, all of them ready. `more` is for the environment of those that are started now."""
        self.start(n, **more)
        for process in list(self.processes)[n:]:
            self.end(process)
        wanted = {process.pid for process in self.processes}
        eventually(
            lambda: wanted == {self._process_of(beat) for beat in self.registry.workers() if beat.state == "ready"},
            START_SECONDS,
        )

    def start(self, n: int, **more: str) -> None:
        """So many at least, ready or not: one that dies when it begins is never seen to be."""
        self.processes = [process for process in self.processes if process.poll() is None]
        while len(self.processes) < n:
            self.n_started += 1
            env = {name: value for name, value in os.environ.items() if not name.startswith("WOOLLY_")}
            kernels = {name: value for name, value in os.environ.items() if name == "WOOLLY_KERNEL_CACHE"}
            with (self.logs / f"worker{self.n_started}.log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(self.program)],
                        stdout=log,
                        stderr=log,
                        env={
                            **env,
                            **kernels,
                            "PYTHONPATH": str(TREE),
                            "PACE_SECONDS": str(PACE_SECONDS),
                            "WOOLLY_REDIS_URL": self.url,
                            "WOOLLY_MODEL": str(DEMO_MODEL),
                            "WOOLLY_MODEL_NAME": "tiny",
                            "WOOLLY_THREADS": "1",
                            "WOOLLY_SLOTS": "4",
                            "WOOLLY_LEASE_SECONDS": "1",
                            "WOOLLY_BELL_SECONDS": "2",
                            "WOOLLY_DRAIN_SECONDS": "0.5",
                            "WOOLLY_LOG_FORMAT": "json",
                            **self.env,
                            **more,
                        },
                    )
                )

    def _process_of(self, beat: WorkerBeat) -> int | None:
        """Of those that we started: the worker itself, or its parent."""
        ours = {process.pid for process in self.processes}
        return next((pid for pid in (beat.pid, beat.parent_pid) if pid in ours), None)

    def end(self, process: "subprocess.Popen[bytes]", sign: signal.Signals = signal.SIGTERM) -> int:
        process.send_signal(sign)
        status = process.wait(30)
        self.processes.remove(process)
        return status

    def submit(self, **sampling: Any) -> str:
        """A job that takes a while and always says the same."""
        params = {"temperature": 0.8, "seed": 11, "max_tokens": N_TOKENS, "ignore_eos": True, **sampling}
        submitted = self.ledger.submit(JobRequest(model="tiny", prompt=PROMPT, sampling=SamplingParams(**params)))
        assert submitted.bell is not None
        self.app.send_task(**submitted.bell.send_task_options())
        return submitted.job_id

    def ended(self, job_id: str, seconds: float = 30.0) -> JobView:
        eventually(lambda: self.ledger.view(job_id).state in TERMINAL_STATES, seconds)
        return self.ledger.view(job_id)

    def result(self, job_id: str) -> JobResult:
        view = self.ended(job_id)
        assert view.state is JobState.SUCCEEDED, view
        assert view.result is not None
        return view.result

    def streaming(self, job_id: str) -> None:
        eventually(lambda: self.ledger.view(job_id).last_seq >= 10)

    def owner(self, job_id: str) -> "subprocess.Popen[bytes]":
        pid = str(self.client.hget(keys.job(job_id), "owner")).split("-")[-2]
        return next(process for process in self.processes if process.pid == int(pid))

    def log_text(self) -> str:
        return "".join(path.read_text() for path in sorted(self.logs.glob("*.log")))
