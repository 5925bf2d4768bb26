"""Fixtures that every test may use."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, running_cluster

from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SCOPES = {"tests/worker/kernels/": "kernels", "tests/worker/engine/": "models", "tests/worker/model/": "models"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With several processes (`-n 2`), each takes a file at a time, but all that compile much the same go to one: a
    second one would only wait for the first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            scopes = (scope for folder, scope in SCOPES.items() if nodeid.startswith(folder))
            return next(scopes, nodeid.partition("::")[0])

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Models, vocabularies and golden files kept beside the project; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared test data is not present")
    return SHARED_DATA


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real server of our own on a free port, for the whole run."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The server, emptied."""
    with closing(connect(redis_server.url)) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with closing(connect(redis_url)) as client:
        yield Ledger(client)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Everything, as `woolly up --model demo` runs it. Flower's own API is open, for tests to look into it."""
    with running_cluster("demo", tmp_path_factory.mktemp("cluster"), FLOWER_UNAUTHENTICATED_API="true") as cluster:
        yield cluster
