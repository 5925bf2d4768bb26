"""The worker under attack: the real one with the real demo model, slowed down a little, with traps (see traps.py).

CHAOS_MUTANT takes one of its safeguards away, so that a test can show that the checker notices.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.mutants import mutate
from chaos.traps import lay

from woolly_worker.queue.loading import LoadedModel, load_model
from woolly_worker.queue.worker import run
from woolly_worker.settings import WorkerSettings


def load_paced(settings: WorkerSettings, on_events: Callable[..., None]) -> LoadedModel:
    loaded = load_model(settings, on_events)
    step, pace = loaded.transformer.step, float(os.environ["CHAOS_PACE_SECONDS"])

    def paced_step() -> Any:
        time.sleep(pace)
        return step()

    loaded.transformer.step = paced_step  # type: ignore[method-assign]
    return loaded


if __name__ == "__main__":
    mutate(os.environ.get("CHAOS_MUTANT"))
    lay(Path(os.environ["CHAOS_TRAPS"]))
    sys.exit(run(WorkerSettings(), load_paced))
