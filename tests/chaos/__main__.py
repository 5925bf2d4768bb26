"""`make chaos`: many seeded schedules on several fleets at once, within a time, and what they found.

    python -m chaos                       as many schedules as fit into --seconds, at least --schedules
    python -m chaos --seed 17             one of them, told in detail
    python -m chaos --mutant no_fence     a program without a safeguard: violations are what is expected

Exit code 0 if nothing was violated (with --mutant: if something was).
"""

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from chaos.attack import attack
from chaos.mutants import NAMES
from chaos.run import Tally


def main() -> int:
    options = _options()
    began = time.monotonic()
    seeds = iter([options.seed]) if options.seed is not None else itertools.count(options.first_seed)
    n_fleets = 1 if options.seed is not None else options.fleets
    tally, failures, n_fenced = Tally(), 0, 0
    context = multiprocessing.get_context("spawn")
    work: Queue[Any] = context.Queue()
    found: Queue[Any] = context.Queue()
    with tempfile.TemporaryDirectory(prefix="woolly-chaos-") as folder:
        fleets = [
            context.Process(target=attack, args=(Path(folder) / f"fleet{i}", options.mutant, work, found))
            for i in range(n_fleets)
        ]
        for process in fleets:
            process.start()
            work.put(next(seeds, None))
        n_begun, n_left = n_fleets, n_fleets
        while n_left:
            kind, value = found.get()
            if kind == "outcome":
                seed, failure = value
                failures += failure is not None
                print(f"seed {seed}: {'ok' if failure is None else 'VIOLATED'}", flush=True)
                if failure is not None:
                    print(failure, flush=True)
                enough = n_begun >= options.schedules or time.monotonic() - began > options.seconds
                work.put(None if enough else next(seeds, None))
                n_begun += not enough
            elif kind == "note":
                print(value, flush=True)
            else:
                n_left -= 1
                if kind == "broken":
                    failures += 1
                    print(value, flush=True)
                else:
                    fleet_tally, fenced = value
                    tally.merge(fleet_tally)
                    n_fenced += fenced
        for process in fleets:
            process.join()
    print(*tally.lines(), sep="\n")
    print(f"{n_fenced} sequences fenced out; {failures} schedules with violations; {time.monotonic() - began:.0f} s")
    return int((failures > 0) is (options.mutant is None))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Attack a cluster, and check what it promises.")
    parser.add_argument("--seconds", type=float, default=1080, help="no new schedule is begun after so long")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--fleets", type=int, default=2, help="fleets side by side")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--mutant", choices=NAMES, help="take a safeguard away")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
