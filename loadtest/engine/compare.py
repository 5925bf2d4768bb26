"""The full comparison: several models, Woolly beside llama.cpp, and the project's bars beside what was measured.

    python loadtest/engine/compare.py --models 1b,7b --types Q4_K_M,Q4_0 --peer-python PYTHON [--json]

or `make bench MODELS="1b 7b" TYPES="Q4_K_M Q4_0"`. Models with random weights are written on demand into
~/.cache/woolly/bench (WOOLLY_BENCH_DIR); the model of the demo is measured as well. For one model of your own there is
`woolly bench`.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from random_gguf import QUANTS, SHAPES, write
from rich.console import Console
from worker_figures import worker_figures

from woolly_worker.bench.bars import DEMO_BARS, Verdict, bars_table, judge, judge_worker
from woolly_worker.bench.comparison import Report, compare
from woolly_worker.bench.peer import PeerFailed, find_peer_python
from woolly_worker.bench.plan import DECODE_STEPS, DEPTHS, make_plan
from woolly_worker.bench.report import print_report
from woolly_worker.bench.runner import affordable
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.kernels.cpu import allowed_cpus

WORKER_BARS_MODEL = ("7b", "Q4_K_M")


def cache_folder() -> Path:
    folder = os.environ.get("WOOLLY_BENCH_DIR")
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "woolly" / "bench"


def model_file(shape: str, quant: str) -> Path:
    """The file of that shape and type, written now if it is not there."""
    path = cache_folder() / f"{shape}-{quant.lower()}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"writing {path}", file=sys.stderr, flush=True)
        write(path, shape, quant)
    return path


def measure(path: Path, options: argparse.Namespace, peer_python: str | None) -> Report:
    depths = (0,) if path == DEMO_MODEL else DEPTHS
    plan = make_plan(decode_steps=options.decode, depths=depths)
    kept = affordable(path, plan, with_peer=peer_python is not None or options.peer_program is not None)
    for work in plan:
        if work not in kept:
            print(f"{path.name}: left out, too little memory is free: {work.name}", file=sys.stderr, flush=True)
    return compare(
        path,
        kept,
        n_threads=options.threads,
        n_rounds=options.rounds,
        peer_python=peer_python,
        peer_program=options.peer_program,
        progress=lambda what, share: print(f"{path.name}: {share:4.0%}  {what}", file=sys.stderr, flush=True),
    )


def words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Several models beside llama.cpp, and the bars.")
    parser.add_argument("--models", default="1b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--types", default="Q4_K_M", help=f"of {', '.join(QUANTS)}")
    parser.add_argument("--threads", type=int, default=allowed_cpus())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", type=int, default=DECODE_STEPS, help="steps of a decode")
    parser.add_argument("--peer-python", help="a Python that has llama-cpp-python; else WOOLLY_BENCH_PEER, or this one")
    parser.add_argument("--peer-program", type=Path, help="llama-batched-bench of ik_llama.cpp, measured instead")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-worker", action="store_true", help="leave out a worker's start and memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for word, known in [*((m, SHAPES) for m in words(options.models)), *((t, QUANTS) for t in words(options.types))]:
        if word not in known:
            parser.error(f"{word} is none of {', '.join(known)}")
    return options


def main() -> None:
    options = parse()
    try:
        peer_python = None if options.no_peer or options.peer_program else find_peer_python(options.peer_python)
    except PeerFailed as error:
        raise SystemExit(str(error)) from error
    names = [(shape, quant) for shape in words(options.models) for quant in words(options.types)]
    reports, verdicts = [], list[Verdict]()
    for path in [DEMO_MODEL, *(model_file(*name) for name in names)]:
        report = measure(path, options, peer_python)
        reports.append(report)
        verdicts += judge(report, DEMO_BARS) if path == DEMO_MODEL else judge(report)
    if WORKER_BARS_MODEL in names and not options.no_worker:
        verdicts += judge_worker(worker_figures(model_file(*WORKER_BARS_MODEL)))
    if options.json:
        bars = [asdict(verdict) for verdict in verdicts]
        print(json.dumps({"reports": [report.as_dict() for report in reports], "bars": bars}, indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    for report in reports:
        print_report(report, console)
        console.print()
    console.print(bars_table(verdicts))


if __name__ == "__main__":
    main()
