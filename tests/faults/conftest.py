"""Fixtures of the attacks: each has a server of its own, because it stops it, fills it or cuts its connections."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Workers

from woolly_worker.ledger.server import EmbeddedServer

StartWorkers = Callable[..., Workers]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def start_workers(server: EmbeddedServer, tmp_path: Path) -> Iterator[StartWorkers]:
    """`start_workers(n, WOOLLY_SLOTS="8")`: n worker processes with the demo model, ready, ended with the test."""
    with ExitStack() as ending:

        def start(n: int = 1, **env: Any) -> Workers:
            workers = ending.enter_context(Workers(server, tmp_path, **env))
            workers.have(n)
            return workers

        yield start
