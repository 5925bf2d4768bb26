"""Woolly beside llama.cpp on one GGUF, interleaved: A B A B ..., medians and ratios.

    python loadtest/engine/compare.py MODEL.gguf --peer-python PATH/TO/python [--rounds 5] [--json]

The peer's Python needs llama-cpp-python; without --peer-python this one is tried. Both run with the same threads, one
at a time, each in a process of its own that stays loaded. Machines are shared and noisy: only ratios of one run mean
something, and the memory bandwidth of that run is printed beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

WORK: dict[str, dict[str, Any]] = {
    "prefill 512": {"do": "prefill", "n": 512},
    "first token, 32-token prompt": {"do": "prefill", "n": 32},
    "decode, 1 sequence": {"do": "decode", "n": 24, "depth": 64, "batch": 1},
    "decode, 4 sequences": {"do": "decode", "n": 12, "depth": 64, "batch": 4},
    "decode, 8 sequences": {"do": "decode", "n": 12, "depth": 64, "batch": 8},
    "decode, 16 sequences": {"do": "decode", "n": 8, "depth": 64, "batch": 16},
}


class Peer:
    """A runner's process."""

    def __init__(self, python: str, script: str, arguments: list[str]) -> None:
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
        self.process = subprocess.Popen(
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[1]} ended with {self.process.wait()}")  # type: ignore[index]
        return json.loads(line).get("value")

    def ask(self, command: dict[str, Any]) -> float:
        assert self.process.stdin is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return float(self.answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def tokens_of(command: dict[str, Any]) -> int:
    """Tokens that one measured time stands for."""
    return int(command["n"]) if command["do"] == "prefill" else int(command["batch"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Woolly beside llama.cpp, interleaved.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-ctx", type=int, default=1024)
    parser.add_argument("--only", help="run only the work whose name contains this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    arguments = [str(options.model.resolve()), "--threads", str(options.threads), "--n-ctx", str(options.n_ctx)]
    woolly = Peer(sys.executable, "runner_woolly.py", arguments)
    llama = Peer(options.peer_python, "runner_llama_cpp.py", arguments)
    work = {name: command for name, command in WORK.items() if not options.only or options.only in name}

    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    bandwidth: list[float] = []
    for _ in range(options.rounds):
        bandwidth.append(woolly.ask({"do": "bandwidth"}))
        for name, command in work.items():
            seconds[name][0].append(woolly.ask(command))
            seconds[name][1].append(llama.ask(command))
    woolly.close()
    llama.close()

    size, speed = options.model.stat().st_size, max(bandwidth)
    results = []
    for name, (ours, theirs) in seconds.items():
        n = tokens_of(work[name])
        a, b = statistics.median(ours), statistics.median(theirs)
        row = {"work": name, "woolly_tokens_per_second": n / a, "llama_cpp_tokens_per_second": n / b, "ratio": b / a}
        if work[name]["do"] == "decode":
            row["share_of_bandwidth"] = size / a / speed
        results.append(row)
    summary = {"model": options.model.name, "threads": options.threads, "bandwidth_bytes_per_second": speed}
    if options.json:
        print(json.dumps(summary | {"results": results}, indent=1))
        return
    print(f"{options.model.name}, {options.threads} threads, {options.rounds} rounds, {speed / 1e9:.1f} GB/s read")
    print(f"{'tokens/s':34}{'Woolly':>10}{'llama.cpp':>11}{'ratio':>8}{'of bandwidth':>14}")
    for row in results:
        share = f"{row['share_of_bandwidth']:.0%}" if "share_of_bandwidth" in row else ""
        print(
            f"{row['work']:34}{row['woolly_tokens_per_second']:10.1f}{row['llama_cpp_tokens_per_second']:11.1f}"
            f"{row['ratio']:8.2f}{share:>14}"
        )


if __name__ == "__main__":
    main()
