"""What a worker says about its settings when it starts."""

import json
from pathlib import Path

import pytest

from woolly_worker.queue.worker import tell_short_lease
from woolly_worker.settings import SHORTEST_LEASE_SECONDS, WorkerSettings
from woolly_worker.telemetry import configure_logging


@pytest.mark.parametrize(("seconds", "n_lines"), [(1.0, 1), (SHORTEST_LEASE_SECONDS, 0)])
def test_a_lease_that_an_absence_of_redis_may_outlast_is_told(
    capfd: pytest.CaptureFixture[str], restored_logging: None, seconds: float, n_lines: int
) -> None:
    configure_logging("info", "json")
    tell_short_lease(WorkerSettings(model=Path("x.gguf"), threads=1, lease_seconds=seconds))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["level"], line["lease_seconds"]) for line in lines] == [("warning", 1.0)] * n_lines
