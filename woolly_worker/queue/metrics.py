"""The engine's numbers in the contract's words: a sequence's metrics for its job, its sums for the heartbeat."""

from dataclasses import asdict

from woolly_worker.contract.jobs import JobMetrics
from woolly_worker.engine.metrics import EngineMetrics, EngineStats
from woolly_worker.ledger.models import BufferStats, WorkerStats
from woolly_worker.memory.kv_cache import BLOCK_TOKENS
from woolly_worker.memory.pool import ClassFigures


def job_metrics(metrics: EngineMetrics) -> JobMetrics:
    """The engine's share; the names are the same. The ledger adds waits, totals and attempts."""
    return JobMetrics(**asdict(metrics))


def worker_stats(stats: EngineStats, before: WorkerStats, seconds: float) -> WorkerStats:
    """`stats` for a heartbeat; rates are over the `seconds` since the one before."""
    return WorkerStats(
        slots=stats.n_slots,
        running=stats.n_running,
        waiting=stats.n_waiting,
        kv_blocks_total=stats.kv_blocks_total,
        kv_blocks_free=stats.kv_blocks_free,
        kv_block_tokens=BLOCK_TOKENS,
        steps_total=stats.n_steps,
        prompt_tokens_total=stats.n_prefill_tokens + stats.n_cached_tokens,
        cached_tokens_total=stats.n_cached_tokens,
        generated_tokens_total=stats.n_decode_tokens,
        jobs_finished_total=stats.n_done + stats.n_failed + stats.n_cancelled + stats.n_expired,
        busy_seconds_total=stats.busy_seconds,
        preemptions_total=stats.n_preemptions,
        prefill_tokens_per_second=_rate(
            stats.n_prefill_tokens, before.prompt_tokens_total - before.cached_tokens_total, seconds
        ),
        decode_tokens_per_second=_rate(stats.n_decode_tokens, before.generated_tokens_total, seconds),
        batch_size_mean=stats.batch_size_mean or 0.0,
        prefix_hit_rate=stats.prefix_hit_rate,
        step_shares={
            "schedule": stats.schedule_share,
            "forward": stats.forward_share,
            "sample": stats.sample_share,
            "emit": stats.emit_share,
        },
        buffer_pool_bytes=stats.buffers.n_bytes,
        buffers={name: _buffer_stats(figures) for name, figures in stats.buffers.classes.items()},
    )


def _buffer_stats(figures: ClassFigures) -> BufferStats:
    n = figures.n_leases_ever
    return BufferStats(
        used_bytes=figures.used_bytes,
        leases=figures.n_leases,
        leases_total=n,
        reused_total=figures.n_reused_ever,
        reuse_rate=figures.n_reused_ever / n if n else None,
    )


def _rate(now: int, before: int, seconds: float) -> float:
    return max(0, now - before) / seconds if seconds > 0 else 0.0
