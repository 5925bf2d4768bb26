"""Builds the ASGI app: routes, error handlers, middleware, lifespan; nothing else.

Importing it loads no model code: no numba, no numpy, and Celery only in the doorbell's thread.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from woolly_api import errors
from woolly_api.documentation import DESCRIPTION, RESPONSES, TAGS, document
from woolly_api.doorbell import Doorbell
from woolly_api.limits import BodyLimit
from woolly_api.query import no_unknown_parameters
from woolly_api.routes import health, jobs, models, openai, performance, stream
from woolly_api.services import Services
from woolly_api.settings import ApiSettings
from woolly_api.telemetry import ApiMetrics, RequestLine, log_job, log_lost
from woolly_worker.contract.errors import WoollyError
from woolly_worker.ledger.connection import connect, connect_async
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.reaper import Reaper

# Connections for everything that is not a stream.
SPARE_CONNECTIONS = 100


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """The app for `settings` (default: the environment's). Connects to nothing before the first request."""
    settings = settings or ApiSettings()
    metrics = ApiMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = connect(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
        async_client = connect_async(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
        # Each open stream holds a connection for its subscription; redis-py would stop at 100.
        async_client.connection_pool.max_connections = settings.max_streams + SPARE_CONNECTIONS
        ledger = Ledger(
            client,
            retention_seconds=settings.retention_seconds,
            bell_seconds=settings.bell_seconds,
            max_crashes=settings.max_crashes,
            on_closed=log_job,
            on_lost=log_lost,
        )
        doorbell = Doorbell(settings.redis_url, capacity=settings.doorbell_capacity, count=metrics.count_bell)
        services = Services(settings, metrics, ledger, LedgerReader(async_client), doorbell)
        reaper = Reaper(ledger, doorbell.ring, f"api-{uuid.uuid4().hex}") if settings.reaper else None
        app.state.services = services
        doorbell.warm()
        telling = asyncio.create_task(services.tell_persistence())
        if reaper is not None:
            reaper.start()
        try:
            yield
        finally:
            services.stopping.set()
            telling.cancel()
            await services.settle(2.0)
            if reaper is not None:
                reaper.stop()
            doorbell.close()
            await async_client.aclose()
            client.close()

    app = FastAPIOffline(  # /docs and /redoc with scripts of this server, where FastAPI's own come from the internet
        title="Woolly",
        version=_version(),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
    )
    for router in (jobs.router, stream.router, openai.router, models.router, performance.router, openai.optimized):
        app.include_router(router, responses=RESPONSES, dependencies=[Depends(no_unknown_parameters)])
    app.include_router(health.router)
    document(app)
    app.add_exception_handler(WoollyError, errors.on_woolly_error)
    app.add_exception_handler(RequestValidationError, errors.on_validation_error)
    app.add_exception_handler(HTTPException, errors.on_http_exception)
    # Added last, met first.
    app.add_middleware(BodyLimit, max_bytes=int(settings.max_body_bytes))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["Idempotency-Replayed", "Location", "Retry-After", "X-Request-Id", "X-Woolly-Job-Id"],
        max_age=3600,
    )
    app.add_middleware(RequestLine, metrics=metrics, on_error=errors.on_unforeseen)
    return app


def _version() -> str:
    try:
        return version("woolly")
    except PackageNotFoundError:  # running from a bare source tree
        return "0"
