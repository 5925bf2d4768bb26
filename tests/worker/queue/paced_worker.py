"""A worker process for tests: the real one with a real model, except that every step takes PACE_SECONDS longer, so that
there is time to interrupt a model of a few thousand parameters."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from woolly_worker.queue.loading import LoadedModel, load_model
from woolly_worker.queue.worker import run
from woolly_worker.settings import WorkerSettings


def load_paced(settings: WorkerSettings, on_events: Callable[..., None]) -> LoadedModel:
    loaded = load_model(settings, on_events)
    step, pace = loaded.transformer.step, float(os.environ["PACE_SECONDS"])

    def paced_step() -> Any:
        time.sleep(pace)
        return step()

    loaded.transformer.step = paced_step  # type: ignore[method-assign]
    return loaded


if __name__ == "__main__":
    sys.exit(run(WorkerSettings(), load_paced))
