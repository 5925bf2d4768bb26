"""Jobs through the front door of a running cluster: first token and tokens per second, alone and together.

    woolly up --model FILE.gguf &
    python loadtest/http/jobs.py [--api http://127.0.0.1:8080] [--jobs 8] [--tokens 64] [--rounds 3]

First token and rate come from the jobs' own metrics, which the worker wrote; the total is what the caller sees.
"""

import argparse
import statistics
import time

from woolly_api.client import WoollyClient
from woolly_worker.contract.jobs import JobRequest, JobResult, SamplingParams


def run(client: WoollyClient, model: str, n_jobs: int, n_tokens: int, seed: int) -> tuple[list[JobResult], float]:
    """The results of `n_jobs` jobs submitted at once, and the seconds from the first submit to the last end."""
    sampling = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
    start = time.perf_counter()
    jobs = [
        client.submit(
            JobRequest(model=model, prompt=f"Story number {seed} of {i}: once upon a time", sampling=sampling)
        )
        for i in range(n_jobs)
    ]
    results = [client.wait(job.id).result for job in jobs]
    seconds = time.perf_counter() - start
    assert all(result is not None for result in results)
    return [result for result in results if result is not None], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Jobs through a running API.")
    parser.add_argument("--api", default="http://127.0.0.1:8080")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with WoollyClient(options.api) as client:
        model = client.models()[0].id
        for n_jobs in (1, options.jobs):
            first, rates, totals = [], [], []
            for seed in range(options.rounds):
                results, seconds = run(client, model, n_jobs, options.tokens, 1000 * n_jobs + seed)
                first += [result.metrics.time_to_first_token_seconds or 0 for result in results]
                rates += [result.metrics.decode_tokens_per_second or 0 for result in results]
                totals.append(sum(result.usage.completion_tokens for result in results) / seconds)
            print(
                f"{model}, {n_jobs} at once: first token {1000 * statistics.median(first):.0f} ms, "
                f"{statistics.median(rates):.1f} tokens/s each while decoding, {statistics.median(totals):.1f} in all"
            )


if __name__ == "__main__":
    main()
