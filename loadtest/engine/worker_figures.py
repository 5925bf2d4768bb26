"""A worker process measured from outside: how long it takes to be ready, and how much memory is its own.

    python loadtest/engine/worker_figures.py MODEL.gguf

Starts an embedded server and `woolly worker` twice; the first start may compile kernels and read the file from disk,
the second one counts. Memory is measured in a process that loads the model as a worker does and computes one sequence
over the whole context. Linux only: it reads /proc.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from woolly_worker.bench.bars import WorkerFigures
from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.engine.events import EngineEvent, EngineRequest, SequenceDone, SequenceFailed
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.models import ModelRegistry
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.loading import load_model
from woolly_worker.settings import WorkerSettings

N_CTX = 2048
FIRST_TOKEN = 3
START_SECONDS = 900.0  # more than compiling everything takes
POLL_SECONDS = 0.005


def start_seconds(model: Path) -> float:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        return [_start_once(model, server.url) for _ in range(2)][-1]


def _start_once(model: Path, redis_url: str) -> float:
    command = [sys.executable, "-m", "woolly_api.cli", "worker", "--model", str(model), "--redis", redis_url]
    with closing(connect(redis_url)) as client:
        registry = ModelRegistry(client)
        started = time.perf_counter()
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while time.perf_counter() - started < START_SECONDS and worker.poll() is None:
                if any((beat.parent_pid, beat.state) == (worker.pid, "ready") for beat in registry.workers()):
                    return time.perf_counter() - started
                time.sleep(POLL_SECONDS)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait()
    raise SystemExit(f"the worker did not become ready: {' '.join(command)}")


def kv_dtype() -> str:
    """The smallest form of keys and values that there is."""
    known = get_args(WorkerSettings.model_fields["kv_dtype"].annotation)
    return "q8_0" if "q8_0" in known else "f16"


def private_bytes_here(model: Path) -> int:
    """Load the model into this process, compute a sequence of N_CTX tokens, and look."""
    endings: list[EngineEvent] = []

    def on_events(events: list[EngineEvent]) -> None:
        endings.extend(event for event in events if isinstance(event, SequenceDone | SequenceFailed))

    settings = WorkerSettings.model_validate({"model": model, "slots": 1, "n_ctx": N_CTX, "kv_dtype": kv_dtype()})
    loaded = load_model(settings, on_events)
    prompt = tuple(FIRST_TOKEN + i % (loaded.config.n_vocab - FIRST_TOKEN) for i in range(N_CTX - 8))
    sampling = SamplingParams(max_tokens=8, temperature=0, seed=0, ignore_eos=True)
    loaded.engine.submit(EngineRequest("memory", 1, prompt, sampling))
    while not endings:
        loaded.engine.step()
    with open(f"/proc/{os.getpid()}/smaps_rollup") as file:
        found = next(line for line in file if line.startswith("Private_Dirty:"))
    loaded.close()
    return int(found.split()[1]) * 1024


def worker_figures(model: Path) -> WorkerFigures:
    memory = subprocess.run(
        [sys.executable, __file__, str(model), "--memory-only"], check=True, stdout=subprocess.PIPE, text=True
    )
    return WorkerFigures(
        model=model.name,
        start_seconds=start_seconds(model),
        private_bytes=int(memory.stdout),
        n_ctx=N_CTX,
        kv_dtype=kv_dtype(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A worker process, measured from outside.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory-only", action="store_true", help="print the private bytes of this process alone")
    options = parser.parse_args()
    if options.memory_only:
        print(private_bytes_here(options.model))
    else:
        print(json.dumps(asdict(worker_figures(options.model)), indent=1))


if __name__ == "__main__":
    main()
