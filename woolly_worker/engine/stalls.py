"""Who does not get on, and why: told to the timelines of those sequences, from around a step."""

import time

from woolly_worker.contract.timeline import StallCause
from woolly_worker.engine.scheduler import Scheduler
from woolly_worker.engine.sequence import Sequence


def note_left_out(scheduler: Scheduler, batch: list[Sequence], now: float) -> None:
    """Who has lost its KV blocks, or has a seat and is not in this step."""
    for sequence in scheduler.waiting:
        sequence.meter.timeline.unseated(now)
    taking_part = {sequence.key for sequence in batch}
    for sequence in scheduler.running:
        if sequence.key not in taking_part:
            sequence.meter.timeline.stalled(StallCause.OTHERS, now)


def note_held_up(scheduler: Scheduler, seconds: float) -> None:
    """The step's events were taken late, just now: behind that callable is Redis. Who waits goes on waiting."""
    since = time.monotonic() - seconds
    for sequence in scheduler.running:
        sequence.meter.timeline.stalled(StallCause.REDIS, since)
