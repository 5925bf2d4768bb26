"""How a sequence went (SequenceMeter -> EngineMetrics) and how the engine goes (EngineMeter -> EngineStats).

Only counts and sums are kept, of bounded size however long a sequence or a process lives. Times come in as arguments:
nothing here looks at a clock.
"""

import math
from dataclasses import dataclass

from woolly_worker.engine.timeline import TimelineRecorder
from woolly_worker.memory.pool import PoolFigures

_GAP_STEP = math.log(1.05)  # inter-token times are kept in buckets 5 % wide: a percentile is off by 2.5 % at most


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """The engine's part of `contract.jobs.JobMetrics`, under the same names."""

    prefill_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    inter_token_p50_seconds: float | None = None
    inter_token_p99_seconds: float | None = None
    cpu_seconds: float | None = None
    batch_size_mean: float | None = None
    batch_size_max: int | None = None
    kv_blocks: int | None = None
    n_cached_tokens: int | None = None
    n_prefill_tokens: int | None = None


class GapHistogram:
    """Durations in logarithmic buckets; only buckets that were hit take memory."""

    __slots__ = ("_buckets", "_n")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._n = 0

    def add(self, seconds: float) -> None:
        bucket = math.floor(math.log(max(seconds, 1e-7)) / _GAP_STEP)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._n += 1

    def percentile(self, share: float) -> float | None:
        """The duration that `share` of all do not exceed, to 2.5 %."""
        at_least = share * self._n
        n = 0
        for bucket in sorted(self._buckets):
            n += self._buckets[bucket]
            if n >= at_least:
                return math.exp((bucket + 0.5) * _GAP_STEP)
        return None


class SequenceMeter:
    """One sequence, from its submit to this engine. Seconds are of one monotonic clock."""

    __slots__ = (
        "admitted_at",
        "cpu_seconds",
        "first_token_at",
        "gaps",
        "kv_blocks",
        "last_token_at",
        "max_batch",
        "n_cached_tokens",
        "n_prefill_tokens",
        "n_steps",
        "n_tokens",
        "sum_batch",
        "timeline",
    )

    def __init__(self, now: float) -> None:
        self.timeline = TimelineRecorder(now)
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.n_tokens = 0  # of this attempt
        self.n_prefill_tokens = 0
        self.n_cached_tokens: int | None = None
        self.n_steps = 0
        self.sum_batch = 0
        self.max_batch = 0
        self.cpu_seconds = 0.0
        self.kv_blocks = 0
        self.gaps = GapHistogram()

    def admitted(self, now: float, n_cached_tokens: int) -> None:
        """Seated. Later admissions, after a preemption, do not count as new ones."""
        self.timeline.admitted(now, n_cached_tokens)
        if self.admitted_at is None:
            self.admitted_at = now
            self.n_cached_tokens = n_cached_tokens

    def computed(self, n_tokens: int, batch_size: int, cpu_seconds: float, kv_blocks: int) -> None:
        self.n_steps += 1
        self.sum_batch += batch_size
        if batch_size > self.max_batch:
            self.max_batch = batch_size
        self.cpu_seconds += cpu_seconds
        if kv_blocks > self.kv_blocks:
            self.kv_blocks = kv_blocks
        if self.first_token_at is None:
            self.n_prefill_tokens += n_tokens

    def sampled(self, now: float) -> None:
        """A next token is known, the end of the generation included."""
        if self.first_token_at is None:
            self.first_token_at = now
        else:
            self.gaps.add(now - self.last_token_at)
        self.last_token_at = now
        self.n_tokens += 1

    def metrics(self) -> EngineMetrics:
        if self.admitted_at is None:
            return EngineMetrics()
        prefill = None if self.first_token_at is None else self.first_token_at - self.admitted_at
        decode = None if self.first_token_at is None else self.last_token_at - self.first_token_at
        return EngineMetrics(
            prefill_seconds=prefill,
            prefill_tokens_per_second=_rate(self.n_prefill_tokens, prefill),
            decode_tokens_per_second=_rate(self.n_tokens - 1, decode),
            inter_token_p50_seconds=self.gaps.percentile(0.50),
            inter_token_p99_seconds=self.gaps.percentile(0.99),
            cpu_seconds=self.cpu_seconds,
            batch_size_mean=self.sum_batch / self.n_steps if self.n_steps else None,
            batch_size_max=self.max_batch if self.n_steps else None,
            kv_blocks=self.kv_blocks,
            n_cached_tokens=self.n_cached_tokens,
            n_prefill_tokens=self.n_prefill_tokens,
        )


def _rate(n: int, seconds: float | None) -> float | None:
    return n / seconds if seconds and n > 0 else None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine from outside. Sums are since the start of the process; shares are of busy time."""

    n_steps: int
    n_decode_tokens: int  # tokens given out
    n_prefill_tokens: int  # tokens of prompts, of resumed jobs, and computed again after a preemption
    n_cached_tokens: int  # tokens that did not have to be computed
    n_running: int
    n_waiting: int
    n_slots: int
    n_done: int
    n_failed: int
    n_cancelled: int
    n_expired: int
    n_released: int
    n_dropped: int
    n_preemptions: int  # a running sequence gave up its KV blocks and was computed again
    n_emit_errors: int
    kv_blocks_total: int
    kv_blocks_free: int
    kv_blocks_cached: int
    buffers: PoolFigures  # of scratch that is leased while a token is sampled
    busy_seconds: float
    decode_tokens_per_second: float | None  # over busy time
    prefill_tokens_per_second: float | None
    batch_size_mean: float | None
    prefix_hit_rate: float | None  # share of prefill tokens found in the prefix cache
    schedule_share: float
    forward_share: float
    sample_share: float
    emit_share: float


class EngineMeter:
    """Sums over all steps. Written by the engine's thread alone; a reader may see a step half counted."""

    __slots__ = (
        "emit_seconds",
        "endings",
        "forward_seconds",
        "n_decode_tokens",
        "n_emit_errors",
        "n_prefill_tokens",
        "n_steps",
        "sample_seconds",
        "schedule_seconds",
        "sum_batch",
    )

    def __init__(self) -> None:
        self.n_steps = self.n_decode_tokens = self.n_prefill_tokens = 0
        self.sum_batch = self.n_emit_errors = 0
        self.schedule_seconds = self.forward_seconds = self.sample_seconds = self.emit_seconds = 0.0
        self.endings = dict.fromkeys(("done", "failed", "cancelled", "expired", "released", "dropped"), 0)

    def stats(
        self,
        *,
        n_running: int,
        n_waiting: int,
        n_slots: int,
        n_preemptions: int,
        n_cached_tokens: int,
        kv_blocks_total: int,
        kv_blocks_free: int,
        kv_blocks_cached: int,
        buffers: PoolFigures,
    ) -> EngineStats:
        busy = self.schedule_seconds + self.forward_seconds + self.sample_seconds + self.emit_seconds
        prompt_tokens = n_cached_tokens + self.n_prefill_tokens
        return EngineStats(
            n_steps=self.n_steps,
            n_decode_tokens=self.n_decode_tokens,
            n_prefill_tokens=self.n_prefill_tokens,
            n_cached_tokens=n_cached_tokens,
            n_running=n_running,
            n_waiting=n_waiting,
            n_slots=n_slots,
            n_done=self.endings["done"],
            n_failed=self.endings["failed"],
            n_cancelled=self.endings["cancelled"],
            n_expired=self.endings["expired"],
            n_released=self.endings["released"],
            n_dropped=self.endings["dropped"],
            n_preemptions=n_preemptions,
            n_emit_errors=self.n_emit_errors,
            kv_blocks_total=kv_blocks_total,
            kv_blocks_free=kv_blocks_free,
            kv_blocks_cached=kv_blocks_cached,
            buffers=buffers,
            busy_seconds=busy,
            decode_tokens_per_second=_rate(self.n_decode_tokens, busy),
            prefill_tokens_per_second=_rate(self.n_prefill_tokens, busy),
            batch_size_mean=self.sum_batch / self.n_steps if self.n_steps else None,
            prefix_hit_rate=n_cached_tokens / prompt_tokens if prompt_tokens else None,
            schedule_share=self.schedule_seconds / busy if busy else 0.0,
            forward_share=self.forward_seconds / busy if busy else 0.0,
            sample_share=self.sample_seconds / busy if busy else 0.0,
            emit_share=self.emit_seconds / busy if busy else 0.0,
        )
