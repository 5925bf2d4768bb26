"""A worker process for tests: as paced_worker.py, with the parent that `woolly worker` has, and it dies whenever a
sequence whose prompt has the token MARK reaches position DIES_AT: as DEATH says, by a signal or an exit code. With
DIES_READING in its environment it dies as soon as it reads such a request."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from woolly_worker.queue.parent import fork_worker

MARK = 7
DIES_AT = 20


def die() -> None:
    death = os.environ["DEATH"]
    if death == "SIGSEGV":
        ctypes.string_at(0)
    elif death.isdigit():
        os._exit(int(death))
    os.kill(os.getpid(), signal.Signals[death])


def die_reading() -> None:
    from woolly_worker.contract.jobs import JobRequest

    read = JobRequest.model_validate_json

    def deadly_read(text: str) -> JobRequest:
        request = read(text)
        if MARK in (request.prompt or ()):
            die()
        return request

    JobRequest.model_validate_json = deadly_read  # type: ignore[method-assign, assignment]


def load_deadly(settings: Any, on_events: Callable[..., None]) -> Any:
    from woolly_worker.queue.loading import load_model

    loaded = load_model(settings, on_events)
    step, batch, pace = loaded.transformer.step, loaded.transformer.batch, float(os.environ["PACE_SECONDS"])
    marked: set[int] = set()  # slots

    def deadly_step() -> Any:
        for row in range(batch.n_tokens):
            slot, position = int(batch.slots[row]), int(batch.positions[row])
            if position == 0:
                marked.discard(slot)
            if batch.token_ids[row] == MARK:
                marked.add(slot)
            if slot in marked and position >= DIES_AT:
                die()
        time.sleep(pace)
        return step()

    loaded.transformer.step = deadly_step  # type: ignore[method-assign]
    return loaded


if __name__ == "__main__":
    introduce = fork_worker(os.environ["WOOLLY_REDIS_URL"])
    if "DIES_READING" in os.environ:
        die_reading()
    from woolly_worker.queue.worker import run
    from woolly_worker.settings import WorkerSettings

    sys.exit(run(WorkerSettings(), load_deadly, introduce))
