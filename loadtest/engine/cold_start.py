"""The first tokens of a model that is not in memory, with and without reading it ahead.

    python loadtest/engine/cold_start.py MODEL.gguf [--rounds 3]

Every run is a process of its own, after the file has been asked out of the page cache. That works only while nobody
else has it mapped: each line says how much of it was in memory nevertheless. Linux only.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.engine.events import EngineRequest
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.memory.residency import resident_bytes
from woolly_worker.queue import loading
from woolly_worker.settings import WorkerSettings

N_PROMPT, N_DECODE = 32, 8
N_CTX = 2048
FIRST_TOKEN = 3  # ids below are control tokens in most vocabularies


def forget(model: Path) -> float:
    """Ask the file out of the page cache. Returns the share of it that is still there."""
    descriptor = os.open(model, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with GGUFFile(model) as file:
        return resident_bytes(file.address, file.n_bytes) / file.n_bytes


def first_tokens(model: Path, way: str) -> str:
    """Load, compute a prompt and some tokens, and tell how long each took."""
    share = forget(model)
    started = time.perf_counter()
    settings = WorkerSettings(model=model, slots=1, n_ctx=N_CTX)
    if way == "without":
        with patch.object(loading, "_read_ahead", lambda file, remark: None):
            loaded = loading.load_model(settings, lambda events: None)
    else:
        loaded = loading.load_model(settings, lambda events: None)
    seconds = [time.perf_counter() - started]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    sampling = SamplingParams(max_tokens=1 + N_DECODE, temperature=0, seed=0, ignore_eos=True)
    prompt = tuple(range(FIRST_TOKEN, FIRST_TOKEN + N_PROMPT))
    loaded.engine.submit(EngineRequest("cold", 1, prompt, sampling))
    for _ in range(1 + N_DECODE):
        before = time.perf_counter()
        loaded.engine.step()
        seconds.append(time.perf_counter() - before)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
    loaded.close()
    load, first, *others = seconds
    return (
        f"{way:8} in memory before {share:4.0%}  load {load:.2f} s  first token {first:.2f} s  "
        f"load and first token {load + first:.2f} s  next {N_DECODE} {sum(others):.2f} s  major faults {faults}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The first tokens of a model that is not in memory.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=("without", "ahead"), help="one run, in this process")
    options = parser.parse_args()
    if options.way:
        print(first_tokens(options.model, options.way), flush=True)
        return
    for _ in range(options.rounds):
        for way in ("without", "ahead"):
            subprocess.run([sys.executable, __file__, str(options.model), "--way", way], check=True)


if __name__ == "__main__":
    main()
