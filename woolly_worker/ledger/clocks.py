"""Redis's clock beside a worker's own: what a worker measured finds its place between the times that Redis wrote.

Redis's TIME stays the only clock that decides anything. This tells what happened.
"""

import time
from dataclasses import dataclass

import redis

from woolly_worker.contract.timeline import MeasuredPart
from woolly_worker.ledger.connection import translated_errors

LOOKS = 3
QUICK_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Clock:
    """One moment by both clocks: milliseconds of Redis's TIME, and seconds of this process's `time.monotonic`."""

    redis_ms: float
    monotonic: float

    def ms_at(self, monotonic: float) -> float:
        """Redis's time at a moment of this process."""
        return self.redis_ms + 1000 * (monotonic - self.monotonic)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a worker knows of its attempt at a job. Consecutive parts fill the time from `began_ms`, by Redis's clock
    as it was seen at the claim, to `ended_at`, in seconds of `time.monotonic`."""

    began_ms: float
    ended_at: float
    parts: tuple[MeasuredPart, ...]


def look(client: redis.Redis) -> Clock:
    """Redis read its clock at some moment of the look, so the answer is off by half of what the look took at most. A
    slow one is repeated, and the quickest counts, as NTP's clock filter has it (RFC 5905, section 10)."""
    best, least = None, float("inf")
    for _ in range(LOOKS):
        began = time.monotonic()
        with translated_errors():
            seconds, micros = client.time()
        took = time.monotonic() - began
        if took < least:
            best, least = Clock(int(seconds) * 1000 + int(micros) / 1000, began + took / 2), took
        if took < QUICK_SECONDS:
            break
    assert best is not None
    return best
