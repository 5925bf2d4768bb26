"""/api/v1/performance: how fast it runs, measured: from the workers' heartbeats and the records of finished jobs, and
on request by a worker that takes the time."""

import asyncio
import time
import uuid
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from woolly_api.documentation import ErrorAnswer
from woolly_api.error_info import error_from_info
from woolly_api.services import Injected
from woolly_worker.contract.benchmarks import BenchmarkRequest, BenchmarkResult
from woolly_worker.contract.errors import BenchmarkTimeout, InternalError, NoWorker
from woolly_worker.contract.jobs import JobView
from woolly_worker.ledger.models import WorkerBeat
from woolly_worker.ledger.records import BenchmarkCall

router = APIRouter(prefix="/api/v1/performance", tags=["Performance"])

MEASURED_JOBS = 100
MIB = 1024 * 1024
BENCHMARK_SECONDS = 120.0  # a 7B model's baseline takes 10 s a token
BENCHMARK_POLL_SECONDS = 0.05


BENCHMARK_RESPONSES: dict[int | str, dict[str, Any]] = {
    429: {"model": ErrorAnswer, "description": "The worker runs a benchmark already."},
    503: {"model": ErrorAnswer, "description": "No live worker, or Redis is away."},
    504: {"model": ErrorAnswer, "description": "No worker answered in time."},
}


class PerformanceStats(BaseModel):
    """The first five fields are those of the earlier program; none is ever invented: without data it is null or 0."""

    model_type: str = Field(description="architecture and quantization of what is served", examples=["llama Q8_0"])
    average_tokens_per_second: float | None = Field(
        description="decode rate per job: tokens over decode time, of the newest finished jobs"
    )
    memory_usage_mb: float | None = Field(description="resident MiB of all live workers, mapped weights included")
    cache_hit_rate: float | None = Field(description="share of prompt tokens found in the KV cache, 0 to 1")
    optimizations_enabled: list[str] = Field(description="what the live workers say they have switched on")
    current_tokens_per_second: float = Field(description="all workers together, over the last few seconds")
    current_prefill_tokens_per_second: float
    jobs_measured: int = Field(description="finished jobs behind average_tokens_per_second")
    time_to_first_token_seconds: float | None = Field(description="mean over the same jobs")
    jobs_running: int
    jobs_waiting: int = Field(description="queued, and claimed but without a slot yet")
    workers: list[WorkerBeat]


@router.get("/stats", summary="Performance, measured")
async def stats(services: Injected) -> PerformanceStats:
    workers = await services.reader.workers()
    cards = {card.name: card for card in await services.reader.models()}
    served = sorted({beat.model for beat in workers}) or sorted(cards)
    finished = [view for view in await services.reader.jobs(limit=MEASURED_JOBS) if _decode_seconds(view)]
    queued = [(await services.reader.lane_counts(model)).queued for model in cards]
    each = [beat.stats for beat in workers]
    prompt_tokens = sum(one.prompt_tokens_total for one in each)
    resident = [one.rss_bytes for one in each if one.rss_bytes is not None]
    first_token = [
        seconds
        for view in finished
        if view.result and (seconds := view.result.metrics.time_to_first_token_seconds) is not None
    ]
    return PerformanceStats(
        model_type=", ".join(
            f"{cards[name].architecture} {cards[name].quantization or ''}".strip() for name in served if name in cards
        ),
        average_tokens_per_second=_rate(finished),
        memory_usage_mb=round(sum(resident) / MIB, 1) if resident else None,
        cache_hit_rate=sum(one.cached_tokens_total for one in each) / prompt_tokens if prompt_tokens else None,
        optimizations_enabled=sorted({name for beat in workers for name in beat.optimizations}),
        current_tokens_per_second=sum(one.decode_tokens_per_second for one in each),
        current_prefill_tokens_per_second=sum(one.prefill_tokens_per_second for one in each),
        jobs_measured=len(finished),
        time_to_first_token_seconds=sum(first_token) / len(first_token) if first_token else None,
        jobs_running=sum(one.running for one in each),
        jobs_waiting=sum(queued) + sum(one.waiting for one in each),
        workers=workers,
    )


@router.post("/benchmark", summary="Measure now, on a live worker", responses=BENCHMARK_RESPONSES)
async def benchmark(request: BenchmarkRequest, services: Injected) -> BenchmarkResult:
    """A worker measures beside its running jobs, which become slower for these seconds and say the same.

    One benchmark at a time per worker. It takes one of the worker's places for a job, and waits while there is none.
    """
    kind, iterations = request.checked()
    live = sorted(beat.model for beat in await services.reader.workers() if beat.state == "ready")
    model = request.model or next(iter(live), None)
    if model is None or model not in live:
        raise NoWorker("no worker is ready" if request.model is None else f"no worker that serves '{model}' is ready")
    call = BenchmarkCall(uuid.uuid4().hex, model, kind.value, iterations)
    await services.ask_for_benchmark(call, BENCHMARK_SECONDS)
    deadline = time.monotonic() + BENCHMARK_SECONDS
    while (answer := await services.reader.benchmark_answer(call.call_id)) is None:
        if services.stopping.is_set() or time.monotonic() > deadline:
            raise BenchmarkTimeout(f"no worker of '{model}' answered within {BENCHMARK_SECONDS:.0f} s")
        await asyncio.sleep(BENCHMARK_POLL_SECONDS)
    if answer.result is None:
        raise error_from_info(answer.error) if answer.error else InternalError("an answer without content")
    return answer.result


def _decode_seconds(view: JobView) -> float:
    """How long this job decoded; 0 when that was not timed (one token has no interval)."""
    if view.result is None or not view.result.metrics.decode_tokens_per_second:
        return 0.0
    return _decoded(view) / view.result.metrics.decode_tokens_per_second


def _decoded(view: JobView) -> int:
    """Tokens with an interval before them: the first one belongs to prefill."""
    return max(0, view.result.usage.completion_tokens - 1) if view.result else 0


def _rate(views: list[JobView]) -> float | None:
    seconds = sum(_decode_seconds(view) for view in views)
    return sum(_decoded(view) for view in views) / seconds if seconds else None
