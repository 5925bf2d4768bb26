"""What a loaded model owes to the worker's settings and to its file."""

import subprocess
import sys

import pytest

from woolly_worker.demo import DEMO_MODEL
from woolly_worker.queue.loading import load_model
from woolly_worker.settings import WorkerSettings


def test_steps_are_bound_by_the_lease() -> None:
    """It is renewed after each of them: a long prompt on a slow machine must not look like a lost worker."""
    model = load_model(WorkerSettings(model=DEMO_MODEL, threads=1, lease_seconds=6.0), lambda events: None)
    try:
        assert model.engine.settings.longest_step_seconds == pytest.approx(6.0 / 4)
    finally:
        model.close()


LOAD = """
import sys
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.queue.loading import load_model
from woolly_worker.settings import WorkerSettings
load_model(WorkerSettings(model=DEMO_MODEL, threads=2), lambda events: None).close()
print("numba" in sys.modules)
"""


def test_a_start_whose_kernels_are_on_disk_does_without_the_compiler() -> None:
    """Its import alone is a quarter of a start."""
    for _ in range(2):  # the first one may have to compile
        ended = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, timeout=280)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["False"]
