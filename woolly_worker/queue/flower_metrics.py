"""Woolly's numbers for Flower's /metrics: what workers say in their heartbeats, and how many jobs each model has.

Read from the ledger at every scrape. Custom task events are not used for this: they would overwrite the state that
Flower shows for a task. A ledger that does not answer is a series of its own, `woolly_up 0`.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelRegistry, WorkerBeat
from woolly_worker.ledger.records import LaneCounts

# Field of WorkerStats -> what it counts. A name that ends in _total only ever grows.
WORKER_SERIES = {
    "slots": "Sequences that the worker runs together",
    "running": "Sequences in its batch",
    "waiting": "Jobs claimed, waiting for a slot or KV blocks",
    "kv_blocks_total": "KV blocks in its pool",
    "kv_blocks_free": "KV blocks that a new sequence may take",
    "steps_total": "Forward passes",
    "prompt_tokens_total": "Prompt tokens of its jobs",
    "cached_tokens_total": "Prompt tokens found in the prefix cache",
    "generated_tokens_total": "Tokens generated",
    "jobs_finished_total": "Jobs ended",
    "refused_messages_total": "Messages in its queues that were none of Woolly's",
    "damaged_jobs_total": "Jobs ended because others had changed their records",
    "prefill_tokens_per_second": "Prompt tokens computed, over the last few seconds",
    "decode_tokens_per_second": "Tokens generated, over the last few seconds",
    "batch_size_mean": "Sequences per step, over all steps",
    "busy_seconds_total": "Time in which the engine stepped",
    "preemptions_total": "Times a sequence gave up its KV blocks and was computed again",
    "buffer_pool_bytes": "Memory of the pool that scratch buffers are leased from",
    "rss_bytes": "Resident memory, the mapped model included",
    "cpu_seconds_total": "CPU time used",
    "minor_faults_total": "Pages mapped without reading",
    "major_faults_total": "Pages read from disk",
    "locked_bytes": "Memory that the system may not take away",
    "huge_page_bytes": "Memory in pages of 2 MB, where they were asked for",
}
# Field of BufferStats -> what it counts, for each size class.
BUFFER_SERIES = {
    "used_bytes": "Bytes of scratch buffers that are lent out",
    "leases": "Scratch buffers lent out",
    "leases_total": "Scratch buffers ever lent",
    "reused_total": "Scratch buffers ever lent, all of whose memory had been lent before",
}
# Capacities whose field happens to end in _total.
GAUGES = frozenset({"kv_blocks_total"})
OPEN_STATES = (JobState.QUEUED, JobState.RUNNING)


class WoollyCollector(Collector):
    def __init__(self, redis_url: str) -> None:
        # Flower answers nobody while this waits.
        client = connect(redis_url, timeout_seconds=0.5)
        self._registry = ModelRegistry(client)
        self._ledger = Ledger(client)

    def describe(self) -> list[Metric]:
        return []  # registering must not read Redis

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("woolly_up", "1 if the ledger answers")
        try:
            workers = self._registry.workers()
            models = {card.name: self._ledger.lane_counts(card.name) for card in self._registry.cards()}
        except LedgerUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from worker_metrics(workers)
        yield from buffer_metrics(workers)
        yield from job_metrics(models)


def worker_metrics(workers: list[WorkerBeat]) -> Iterator[Metric]:
    labels = ["worker", "model"]
    for field, meaning in WORKER_SERIES.items():
        grows = field.endswith("_total") and field not in GAUGES
        kind = CounterMetricFamily if grows else GaugeMetricFamily
        # prometheus_client puts the _total back on counters; on a gauge it would be a misleading name.
        family = kind(f"woolly_worker_{field.removesuffix('_total')}", meaning, labels=labels)
        for beat in workers:
            value = getattr(beat.stats, field)
            if value is not None:
                family.add_metric([beat.worker_id, beat.model], float(value))
        yield family


def buffer_metrics(workers: list[WorkerBeat]) -> Iterator[Metric]:
    for field, meaning in BUFFER_SERIES.items():
        kind = CounterMetricFamily if field.endswith("_total") else GaugeMetricFamily
        # A counter of leases and a gauge of them cannot share a name.
        name = {"leases_total": "leased", "reused_total": "reused"}.get(field, field)
        family = kind(f"woolly_worker_buffers_{name}", meaning, labels=["worker", "model", "size"])
        for beat in workers:
            for size, buffers in beat.stats.buffers.items():
                family.add_metric([beat.worker_id, beat.model, size], float(getattr(buffers, field)))
        yield family


def job_metrics(models: dict[str, LaneCounts]) -> Iterator[Metric]:
    now = GaugeMetricFamily("woolly_jobs", "Jobs that have not ended", labels=["model", "state"])
    ended = CounterMetricFamily("woolly_jobs_ended", "Jobs that have ended", labels=["model", "state"])
    for model, counts in models.items():
        for state in JobState:
            family = now if state in OPEN_STATES else ended
            family.add_metric([model, state.value], getattr(counts, state.value))
    yield now
    yield ended
