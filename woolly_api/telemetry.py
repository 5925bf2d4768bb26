"""Logs and metrics of requests: one line and one observation per request, and a line per job that the API ended.

Refuses to log bodies, query strings and headers: a line says who, what, how long, and nothing of the prompt.
"""

import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from woolly_api.settings import ApiSettings
from woolly_worker.contract.jobs import JobResult
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.timings import summary_fields

log: structlog.stdlib.BoundLogger = structlog.get_logger("woolly.api")

OnError = Callable[[Request, Exception], Awaitable[Response]]

REQUEST_ID_HEADER = b"x-request-id"
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

# Seconds. Short ones for polls, long ones for completions that wait for a slow model.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def configure_logging(settings: ApiSettings) -> None:
    """Send structlog's and the standard library's lines to standard error, in one format. For entry points only."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        # Plain tracebacks: the default one prints local variables, and prompts are among them.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    tail: list[structlog.types.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if settings.log_format == "json":
        tail.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*tail, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class ApiMetrics:
    """The API's own series, in a registry of their own so that two apps in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        label = ("method", "route")
        self.requests = Counter("woolly_api_requests", "Requests answered", (*label, "status"), registry=self.registry)
        self.seconds = Histogram(
            "woolly_api_request_seconds",
            "Request to last byte",
            label,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("woolly_api_requests_in_flight", "Requests being answered", registry=self.registry)
        self.streams = Gauge("woolly_api_streams_open", "Open SSE streams", registry=self.registry)
        self.submitted = Counter("woolly_api_jobs_submitted", "Jobs recorded", ("model",), registry=self.registry)
        self.replayed = Counter(
            "woolly_api_jobs_replayed",
            "Submits that an idempotency key led to an earlier job",
            ("model",),
            registry=self.registry,
        )
        self.bells = Counter(
            "woolly_api_bells",
            "Doorbells: rung, failed (broker away) or dropped (backlog full); the reaper heals the latter two",
            ("outcome",),
            registry=self.registry,
        )
        self.abandoned = Counter(
            "woolly_api_jobs_abandoned", "Jobs cancelled because their client went away", registry=self.registry
        )

    def count_bell(self, outcome: str) -> None:
        self.bells.labels(outcome).inc()


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    return str(scope.get("state", {}).get("request_id", ""))


def note(scope: MutableMapping[str, Any], **fields: Any) -> None:
    """Add fields to this request's log line."""
    scope["state"].setdefault("log_fields", {}).update(fields)


def log_lost(job_id: str, worker_id: str, attempt: int) -> None:
    """The one line of a lost lease that this process noticed. How that worker ended is in the job's history."""
    log.warning("worker lost", job_id=job_id, worker_id=worker_id, attempt=attempt)


def log_job(job_id: str, state: JobState, result: JobResult) -> None:
    """The one line of a job that ended here, without a worker. The others are in their worker's log, and look alike."""
    log.info("job", **summary_fields(job_id, state, result))


class RequestLine:
    """ASGI middleware: request id in and out, one log line, one metric. Plain ASGI, so streams pass untouched.

    It is also the last to see an exception that nobody expected, and answers it with what `on_error` makes.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, on_error: OnError) -> None:
        self._app = app
        self._metrics = metrics
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request_id.encode())]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            response = await self._on_error(Request(scope), error)
            if status is not None:
                raise  # the answer has begun: all that is left is to cut it off
            await response(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            # The route's pattern, never the raw path: job ids would make a series each.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(scope["method"], route, status or 0).inc()
            self._metrics.seconds.labels(scope["method"], route).observe(seconds)
            level = logging.DEBUG if route in ("/healthz", "/readyz", "/metrics") else logging.INFO
            fields = scope["state"].get("log_fields", {})
            log.log(
                level,
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(seconds, 4),
                request_id=request_id,
                **fields,
            )


def _request_id(scope: Scope) -> str:
    """The caller's own id when it is harmless to echo, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            given = value.decode("latin-1")
            if _ACCEPTABLE_ID.fullmatch(given):
                return str(given)
    return f"req_{uuid.uuid4().hex}"
