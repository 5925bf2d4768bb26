"""/healthz: this process answers. /readyz: a job handed in now would be run. /metrics: Prometheus."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric

from woolly_api.services import Injected, Services
from woolly_worker.contract.errors import LedgerUnavailable, LedgerVersionMismatch
from woolly_worker.ledger.foreign import foreign

router = APIRouter(tags=["Health"])


@router.get("/healthz", summary="Is this process alive?")
async def healthz() -> dict[str, str]:
    """Asks nobody else, so that an orchestrator does not restart the API because Redis is away."""
    return {"status": "ok"}


@router.get("/readyz", summary="Would a job be run?", responses={503: {"description": "Not now; `checks` says why."}})
async def readyz(services: Injected) -> Response:
    """Redis answers and at least one worker is ready. `persistence` says what a crash of Redis may cost."""
    checks: dict[str, Any] = {}
    try:
        workers = await services.reader.workers()
        persistence = await services.persistence()
    except LedgerUnavailable as error:
        checks["redis"] = {"status": "unavailable", "message": error.message}
        checks["workers"] = {"status": "unknown", "ready": 0}
    else:
        ready = sum(beat.state == "ready" for beat in workers)
        checks["redis"] = {**await _version_check(services), "persistence": persistence.fields()}
        checks["workers"] = {"status": "ok" if ready else "none ready", "ready": ready, "alive": len(workers)}
    good = all(check["status"] == "ok" for check in checks.values())
    body = {"status": "ready" if good else "not_ready", "checks": checks}
    return JSONResponse(body, status_code=200 if good else 503, headers={} if good else {"Retry-After": "2"})


async def _version_check(services: Services) -> dict[str, Any]:
    try:
        await services.reader.check_version()
    except (LedgerUnavailable, LedgerVersionMismatch) as error:
        return {"status": "unavailable", "code": error.code, "message": error.message}
    return {"status": "ok"}


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(services: Injected) -> Response:
    """This API's requests, and the cluster's jobs and workers as Redis shows them (left out while it is away)."""
    text = generate_latest(services.metrics.registry)
    cluster = CollectorRegistry()
    families = await _cluster(services)
    cluster.register(_Snapshot(families))
    return Response(text + generate_latest(cluster), media_type=CONTENT_TYPE_LATEST)


async def _cluster(services: Services) -> list[Metric]:
    up = GaugeMetricFamily("woolly_redis_up", "Whether Redis answered this scrape")
    try:
        cards, workers = await services.reader.models(), await services.reader.workers()
        counts = {card.name: await services.reader.lane_counts(card.name) for card in cards}
    except LedgerUnavailable:
        up.add_metric([], 0)
        return [up]
    up.add_metric([], 1)
    jobs = GaugeMetricFamily("woolly_jobs", "Jobs by model and state; ended ones since ever", labels=["model", "state"])
    for model, lane in counts.items():
        for state in ("queued", "running", "succeeded", "failed", "cancelled", "expired"):
            jobs.add_metric([model, state], getattr(lane, state))
    tokens = GaugeMetricFamily("woolly_queued_tokens", "Tokens that waiting jobs may take", labels=["model"])
    for model, lane in counts.items():
        tokens.add_metric([model], lane.queued_tokens)
    alive = GaugeMetricFamily("woolly_workers", "Live workers by model and state", labels=["model", "state"])
    for pair in {(beat.model, beat.state) for beat in workers}:
        alive.add_metric(list(pair), sum((beat.model, beat.state) == pair for beat in workers))
    ignored = CounterMetricFamily("woolly_foreign_entries", "Entries in Redis that nobody can read", labels=["kind"])
    for kind, n in sorted(foreign.counts.items()):
        ignored.add_metric([kind], n)
    families: list[Metric] = [up, jobs, tokens, alive, ignored]
    for name, help_ in _WORKER_METRICS.items():
        family: GaugeMetricFamily | CounterMetricFamily
        if name.endswith("_total"):
            family = CounterMetricFamily(f"woolly_worker_{name}", help_, labels=["worker", "model"])
        else:
            family = GaugeMetricFamily(f"woolly_worker_{name}", help_, labels=["worker", "model"])
        for beat in workers:
            value = getattr(beat.stats, name)
            if value is not None:
                family.add_metric([beat.worker_id, beat.model], value)
        families.append(family)
    return families


_WORKER_METRICS = {
    "running": "Sequences in the batch",
    "waiting": "Claimed jobs that wait for a slot or KV blocks",
    "slots": "Seats for sequences",
    "kv_blocks_free": "Free KV blocks",
    "kv_blocks_total": "KV blocks",
    "decode_tokens_per_second": "Decode rate of the last few seconds",
    "prefill_tokens_per_second": "Prefill rate of the last few seconds",
    "generated_tokens_total": "Tokens generated since the worker started",
    "rss_bytes": "Resident memory, mapped weights included",
}


class _Snapshot:
    """Hands prometheus_client what was read a moment ago."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
