"""How right a queued job is told its place and its start: what was said at submit and while waiting, and what happened.

    woolly up --model demo --slots 8 &
    python loadtest/http/estimates.py [--api http://127.0.0.1:8080] [--jobs 300] [--rounds 2] [--natural]

Every round fills the queue with jobs of very different lengths, of many tenants and three priorities, then asks about
some of those that wait until all have started. In the first round of a fresh cluster no speed has been measured.

The relative error of a start is |told - happened| / happened, of jobs that then waited for a second or longer; that of
a place is |told - happened| / the jobs that waited. Lower priority numbers that come later are not foreseen by anybody.
"""

import argparse
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from woolly_api.client import JobInfo, WoollyClient
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import TERMINAL_STATES

SUBMITTERS = 4
POLLED_AT_ONCE = 10
POLL_SECONDS = 0.5
LISTED = 500


@dataclass(frozen=True)
class Told:
    job_id: str
    at: float  # Unix seconds
    position: int
    start_seconds: float | None


def told(view: JobInfo, at: float) -> Told | None:
    if view.queue_position is None:
        return None
    return Told(view.id, at, view.queue_position, view.estimated_start_seconds)


def request(model: str, number: int, draw: random.Random, natural: bool) -> JobRequest:
    sampling = SamplingParams(max_tokens=draw.randint(16, 400), temperature=0.8, ignore_eos=not natural)
    prompt = f"Story number {number}: once upon a time there was a"
    priority = draw.choices((2, 5, 8), (1, 8, 1))[0]
    return JobRequest(
        model=model, prompt=prompt, sampling=sampling, tenant=f"tenant{draw.randrange(12)}", priority=priority
    )


def fill_and_watch(
    client: WoollyClient, model: str, n_jobs: int, seed: int, natural: bool
) -> tuple[list[Told], list[Told], dict[str, float]]:
    """What was said at submit, what was said while they waited, and when they started (Unix seconds)."""
    draw = random.Random(seed)
    requests = [request(model, number, draw, natural) for number in range(n_jobs)]
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        views = list(pool.map(client.submit, requests))
    at_submit = [said for view in views if (said := told(view, view.created_at))]
    waiting = {view.id for view in views}
    while_waiting: list[Told] = []
    started: dict[str, float] = {}
    while waiting:
        for job_id in draw.sample(sorted(waiting), min(POLLED_AT_ONCE, len(waiting))):
            if said := told(client.get(job_id), time.time()):
                while_waiting.append(said)
        time.sleep(POLL_SECONDS)
        for view in client.jobs(limit=LISTED):
            if view.id in waiting and view.started_at is not None:
                started[view.id] = view.started_at
                waiting.discard(view.id)
    for view in views:  # the next round begins with an empty queue
        assert client.wait(view.id).state in TERMINAL_STATES
    return at_submit, while_waiting, started


def report(name: str, said: list[Told], started: dict[str, float], n_jobs: int) -> None:
    starts, seconds, places = [], [], []
    for one in said:
        happened = started[one.job_id] - one.at
        before = sum(one.at <= other < started[one.job_id] for other in started.values())
        places.append(abs(one.position - before) / n_jobs)
        if one.start_seconds is not None and happened >= 1.0:
            starts.append(abs(one.start_seconds - happened) / happened)
            seconds.append(abs(one.start_seconds - happened))
    silent = sum(one.start_seconds is None for one in said)
    print(
        f"{name}: {len(starts)} starts, error median {_percent(starts, 0.5)}, p90 {_percent(starts, 0.9)} "
        f"({statistics.median(seconds or [0]):.1f} s); {len(places)} places, error median {_percent(places, 0.5)}, "
        f"p90 {_percent(places, 0.9)}; {silent} were told no time"
    )


def _percent(errors: list[float], share: float) -> str:
    return f"{100 * sorted(errors)[int(share * (len(errors) - 1))]:.0f} %" if errors else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description="The error of queue positions and estimated starts.")
    parser.add_argument("--api", default="http://127.0.0.1:8080")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--natural", action="store_true", help="let the model end its texts, long before max_tokens")
    options = parser.parse_args()
    if options.jobs > LISTED:
        parser.error(f"{options.jobs} jobs, but a list shows at most {LISTED}")
    with WoollyClient(options.api) as client:
        model = client.models()[0].id
        for number in range(options.rounds):
            begun = time.monotonic()
            at_submit, while_waiting, started = fill_and_watch(client, model, options.jobs, number, options.natural)
            print(f"round {number + 1}: {options.jobs} jobs in {time.monotonic() - begun:.1f} s")
            report("  at submit    ", at_submit, started, options.jobs)
            report("  while waiting", while_waiting, started, options.jobs)


if __name__ == "__main__":
    main()
