"""Fixtures of the API's tests: real server, real Redis, and a worker that plays a script through the real ledger."""

from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from harness import RunningApi, running_api
from scripted_worker import ScriptedWorker

from woolly_api.client import WoollyClient
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger


@pytest.fixture
def api(redis_url: str) -> Iterator[RunningApi]:
    with running_api(redis_url) as running:
        yield running


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
