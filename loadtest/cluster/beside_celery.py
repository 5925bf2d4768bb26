"""Woolly beside plain Celery under the same faults: jobs lost, tokens doubled, streams with holes. Prints a table.

    PYTHONPATH=tests:. python loadtest/cluster/beside_celery.py [--rounds 5] [--jobs 48]

Both have two workers with four slots each behind the same proxy, one server with `appendfsync always`, and jobs of
equally many tokens at equal pace. Plain Celery is loadtest/cluster/plain_worker.py; of Woolly's jobs the checker of the
chaos harness is asked as well, of plain Celery's the tokens in the streams are counted.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chaos.faults import Faults
from chaos.fleet import Fleet, Member, environment
from chaos.run import Arena
from chaos.schedule import Fault, JobPlan, Schedule

N_TOKENS = 32  # of the catalogue's job "sampled"
LONG_SECONDS = 7.0  # longer than Woolly's lease here (1 s) and than Celery's visibility timeout (5 s)
PATIENCE_SECONDS = 40.0
FAULTS: dict[str, tuple[Fault, ...]] = {
    "none": (),
    "a worker is killed": (Fault("kill worker", 0.3),),
    "both workers are killed": (Fault("kill worker", 0.3, 0), Fault("kill worker", 0.5, 1)),
    f"a worker stands still for {LONG_SECONDS:.0f} s": (Fault("stop worker", 0.3, 0, LONG_SECONDS),),
    "connections are cut, four times": tuple(Fault("cut workers", 0.2 + 0.3 * i) for i in range(4)),
    "the server is killed and restarted": (Fault("server restart", 0.4, 0, 0.3),),
    "a worker is told to end (SIGTERM)": (Fault("drain worker", 0.3),),
}
COLUMNS = ("jobs", "never ended", "ended twice", "with doubled tokens", "with a gap")


class PlainFleet(Fleet):
    """Celery alone in the place of Woolly's workers, and no API."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, n_apis=0)

    def _worker(self, index: int, more: dict[str, str]) -> Member:
        env = {**environment(), **more, "PLAIN_REDIS_URL": self.worker_proxy.url}
        env["PYTHONPATH"] = f"{Path(__file__).parent}:{env['PYTHONPATH']}"
        options = ["--pool", "threads", "--concurrency", "4", "--loglevel", "WARNING", "-n", f"plain{index}@%h"]
        options += ["--without-mingle", "--without-gossip"]
        argv = [sys.executable, "-m", "celery", "-A", "plain_worker", "worker", *options]
        return Member(f"plain{index}", argv, env, self.folder / f"plain{index}.log")

    def _missing(self) -> list[str]:
        """Whoever does not consume: a consuming worker waits in a blocking read of the queue."""
        clients = self.patient(self.client.client_list)
        n_waiting = sum(client["cmd"].lower() == "brpop" for client in clients)
        return [] if n_waiting >= len(self.workers) else [member.name for member in self.workers]


def plain(rounds: int, n_jobs: int, attacks: dict[str, tuple[Fault, ...]]) -> dict[str, Counter[str]]:
    rows: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder, PlainFleet(Path(folder)) as fleet:
        send = _sender(f"redis://127.0.0.1:{fleet.redis_port}/0")
        for name, faults in attacks.items():
            rows[name] = Counter()
            for round_ in range(rounds):
                fleet.calm()
                job_ids = [f"{len(rows)}-{round_}-{index}" for index in range(n_jobs)]
                for job_id in job_ids:
                    send(job_id)
                under_attack = Faults(fleet, faults)
                deadline = time.monotonic() + PATIENCE_SECONDS
                under_attack.wait()
                while time.monotonic() < deadline and not all(_ended(fleet, job_id) for job_id in job_ids):
                    time.sleep(0.1)
                time.sleep(6.0)  # what was put back by the visibility timeout comes again
                for job_id in job_ids:
                    rows[name] += _judge([fields["seq"] for _, fields in fleet.client.xrange(f"plain:{job_id}")])
            print(f"plain celery, {name}: {dict(rows[name])}", flush=True)
    return rows


def woolly(rounds: int, n_jobs: int, attacks: dict[str, tuple[Fault, ...]]) -> dict[str, Counter[str]]:
    rows: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder, Arena(Path(folder)) as arena:
        for name, faults in attacks.items():
            rows[name] = Counter()
            for round_ in range(rounds):
                jobs = tuple(JobPlan("sampled", 0.0, "stream") for _ in range(n_jobs))
                outcome = arena.run(Schedule(round_, jobs, faults))
                for story in outcome.stories:
                    seqs = [str(seen.id) for seen in story.seen[:-1]] + (["end"] if story.ended else [])
                    rows[name] += _judge(seqs)
                rows[name]["violations"] += len(outcome.violations)
            print(f"woolly, {name}: {dict(rows[name])}", flush=True)
    return rows


def _sender(url: str) -> Callable[[str], None]:
    """Straight to the server: how jobs are sent is not what is tested."""
    os.environ["PLAIN_REDIS_URL"] = url
    from plain_worker import generate

    return lambda job_id: generate.delay(job_id, N_TOKENS)


def _ended(fleet: Fleet, job_id: str) -> bool:
    newest = fleet.patient(lambda: fleet.client.xrevrange(f"plain:{job_id}", count=1))
    return bool(newest) and newest[0][1]["seq"] == "end"


def _judge(seqs: list[str]) -> Counter[str]:
    counts = Counter(seqs)
    ends = counts.pop("end", 0)
    return Counter(
        {
            "jobs": 1,
            "never ended": int(ends == 0),
            "ended twice": int(ends > 1),
            "with doubled tokens": int(any(count > 1 for count in counts.values())),
            "with a gap": int(ends > 0 and len(counts) < N_TOKENS),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=48)
    parser.add_argument("--only", default="", help="the faults whose names have this in them")
    options = parser.parse_args()
    attacks = {name: faults for name, faults in FAULTS.items() if options.only in name}
    both = {
        "Woolly": woolly(options.rounds, options.jobs, attacks),
        "plain Celery": plain(options.rounds, options.jobs, attacks),
    }
    print("| fault | |", " | ".join(COLUMNS), "|")
    print("|---|---|" + "---|" * len(COLUMNS))
    for name in attacks:
        for who, rows in both.items():
            print(f"| {name} | {who} |", " | ".join(str(rows[name][column]) for column in COLUMNS), "|")
    print("violations of any promise by Woolly:", sum(row["violations"] for row in both["Woolly"].values()))


if __name__ == "__main__":
    main()
