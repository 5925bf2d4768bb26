"""Where the time of many jobs went, and how much of it no part of their timelines explains.

    woolly up --model FILE.gguf &
    python loadtest/http/timelines.py [--api http://127.0.0.1:8080] [--jobs 32] [--tokens 200]

Jobs are handed in at once, so that most of them wait. Shares are of the wall time of all jobs together.
"""

import argparse
import statistics
from collections import Counter

from woolly_api.client import WoollyClient
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.timeline import Timeline


def timelines(client: WoollyClient, n_jobs: int, n_tokens: int) -> list[Timeline]:
    """Of jobs that were submitted at once and have all ended."""
    model = client.models()[0].id
    sampling = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
    jobs = [
        client.submit(JobRequest(model=model, prompt=f"Story number {i}: once upon a time", sampling=sampling))
        for i in range(n_jobs)
    ]
    for job in jobs:
        client.wait(job.id)
    told = [client.get(job.id, timeline=True).timeline for job in jobs]
    return [timeline for timeline in told if timeline is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Timelines of jobs through a running API.")
    parser.add_argument("--api", default="http://127.0.0.1:8080")
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    with WoollyClient(options.api) as client:
        told = timelines(client, options.jobs, options.tokens)
    whole = sum(timeline.seconds for timeline in told)
    seconds: Counter[str] = Counter()
    for timeline in told:
        for part in timeline.parts:
            seconds[part.kind.value if part.cause is None else f"stall: {part.cause.value}"] += part.seconds
    for name, spent in seconds.most_common():
        print(f"{name:18} {100 * spent / whole:6.2f} %  {spent:9.3f} s")
    rest = [abs(timeline.unattributed_seconds) for timeline in told]
    share = max(abs(timeline.unattributed_seconds) / timeline.seconds for timeline in told)
    median = statistics.median(timeline.seconds for timeline in told)
    print(
        f"{len(told)} jobs of {median:.2f} s in the median; unattributed: "
        f"{1000 * statistics.median(rest):.3f} ms, {1000 * max(rest):.3f} ms and {100 * share:.4f} % at most"
    )


if __name__ == "__main__":
    main()
