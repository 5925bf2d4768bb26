"""What Redis keeps is in /readyz and once in the log, loudly if it is little, as soon as Redis answers."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from harness import running_api, wait_for

from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.server import EmbeddedServer, free_port


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path) as server, closing(connect(server.url)) as client:
        client.config_set("appendonly", "no")
        yield server


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "may_lose=" in record.getMessage()]


def test_a_server_that_keeps_nothing_is_a_warning(forgetful: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running_api(forgetful.url) as api:
        wait_for(lambda: told(caplog))
        redis = httpx.get(api.url + "/readyz").json()["checks"]["redis"]
    assert redis["persistence"] == {"appendonly": "no", "appendfsync": "everysec", "may_lose": "everything"}
    (record,) = told(caplog)
    assert record.levelno == logging.WARNING


def test_it_is_told_when_redis_comes_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    with running_api(f"redis://127.0.0.1:{port}/0"):
        assert told(caplog) == []
        with EmbeddedServer(tmp_path, port=port, appendfsync="always"):
            wait_for(lambda: told(caplog))
    (record,) = told(caplog)
    assert record.levelno == logging.INFO
    assert "may_lose='nothing'" in record.getMessage()
