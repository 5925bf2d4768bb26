"""Fixtures of the API's tests: real server, real Redis, and a worker that plays a script through the real ledger."""

from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import structlog
from harness import RunningApi, running_api, wait_for
from scripted_worker import ScriptedWorker

from woolly_api.client import WoollyClient
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """Log lines go where pytest captures them."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@pytest.fixture(scope="session")
def shared_api(redis_server: EmbeddedServer) -> Iterator[RunningApi]:
    with running_api(redis_server.url) as running:
        yield running


@pytest.fixture
def api(shared_api: RunningApi, redis_url: str) -> RunningApi:
    """One server for all tests, over an emptied Redis: the API keeps no state of its own."""
    # A request of the test before may still be on its way, and open a stream that its client does not wait for.
    wait_for(lambda: shared_api.metric("woolly_api_requests_in_flight") == 0)
    shared_api.mark()
    return shared_api


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        yield client


@pytest.fixture
def client(api: RunningApi) -> Iterator[WoollyClient]:
    with WoollyClient(api.url, patience_seconds=10) as client:
        yield client


@pytest.fixture
def worker(redis_url: str) -> Iterator[ScriptedWorker]:
    """Announced and alive, but idle until the test tells it to `serve`."""
    with closing(connect(redis_url)) as redis_client:
        worker = ScriptedWorker(Ledger(redis_client))
        worker.announce()
        try:
            yield worker
        finally:
            worker.stop()
