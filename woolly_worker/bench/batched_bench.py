"""A peer that is a program: llama-batched-bench, as ik_llama.cpp and llama.cpp build it.

Every work is a call of its own, which loads the model again; only the times that it prints count. It prefills B
sequences with P tokens and lets each decode T more: a prompt is the first half of that, a decode the second.
"""

import os
import re
import subprocess
from pathlib import Path

from woolly_worker.bench.peer import PeerFailed
from woolly_worker.bench.plan import STEP_TOKENS, Decode, Mixed, Prefill, Work

_RESULT = re.compile(r"^\|\s*\d+ \|\s*\d+ \|\s*\d+ \|\s*\d+ \|\s*([\d.]+) \|\s*[\d.]+ \|\s*([\d.]+) \|", re.MULTILINE)


class BatchedBench:
    """One program, called for every work."""

    def __init__(self, program: Path, model: Path, *, n_threads: int) -> None:
        if not os.access(program, os.X_OK) or program.is_dir():
            raise PeerFailed(f"{program} is no program: build the target llama-batched-bench of ik_llama.cpp")
        self._command = [
            str(program.resolve()),
            "-m",
            str(model.resolve()),
            "-t",
            str(n_threads),
            "-ub",
            str(STEP_TOKENS),
        ]
        self.name = program.name
        self.version = str(program)

    def can_run(self, work: Work) -> bool:
        """It knows nothing of prompts that come in while others decode."""
        return not isinstance(work, Mixed)

    def run(self, work: Work) -> list[float]:
        """Seconds of every step; of a decode only their sum is known, so all are alike."""
        if isinstance(work, Prefill):
            return [self._times(work.n_tokens, 1, 1)[0]]
        assert isinstance(work, Decode)
        return [self._times(max(1, work.depth), work.n_steps, work.batch)[1] / work.n_steps] * work.n_steps

    def close(self) -> None:
        """Nothing: no process is left between two works."""

    def _times(self, n_prompt: int, n_steps: int, n_sequences: int) -> tuple[float, float]:
        """Seconds for the prompts, and for the steps."""
        n_ctx = n_sequences * (n_prompt + n_steps)
        counts = ["-c", n_ctx, "-b", n_ctx, "-npp", n_prompt, "-ntg", n_steps, "-npl", n_sequences]
        try:
            ended = subprocess.run([*self._command, *map(str, counts)], capture_output=True, text=True, check=False)
        except OSError as error:
            raise PeerFailed(f"{self._command[0]} does not run: {error.strerror}") from error
        found = _RESULT.search(ended.stdout) or _RESULT.search(ended.stderr)
        if ended.returncode or found is None:
            said = [line for line in ended.stderr.splitlines() if line.strip()]
            raise PeerFailed(f"{self._command[0]} ended with {ended.returncode}" + (f": {said[-1]}" if said else ""))
        return float(found[1]), float(found[2])
