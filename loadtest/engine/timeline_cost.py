"""What a timeline costs: nanoseconds per decode step of a sequence, and the bytes it leaves in a job's record.

python loadtest/engine/timeline_cost.py
"""

import time

from woolly_worker.contract.timeline import StallCause
from woolly_worker.engine.timeline import TimelineRecorder
from woolly_worker.ledger.clocks import Clock, Measured
from woolly_worker.ledger.timelines import dump

N_STEPS = 200_000
ROUNDS = 7


def decode_seconds() -> float:
    """Per step, the least of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        recorder = TimelineRecorder(0.0)
        recorder.admitted(0.0, 0)
        began = time.perf_counter()
        for _ in range(N_STEPS):
            recorder.computed(1, 4, True, 1.0)
        best = min(best, (time.perf_counter() - began) / N_STEPS)
    return best


def recorded(n_parts: int) -> tuple[float, int]:
    """Seconds to close a timeline of so many parts and to write it as JSON, and the bytes of that."""
    recorder, now = TimelineRecorder(0.0), 0.123456
    recorder.admitted(now, 64)
    for _ in range(n_parts // 2):
        recorder.computed(1, 3, True, now)
        recorder.stalled(StallCause.REDIS, now + 1.234567)
        now += 2.345678
    began = time.perf_counter()
    times = recorder.times(now)
    text = dump(Measured(1.7e12, times.ended_at, times.parts), Clock(1.7e12, 0.0))
    return time.perf_counter() - began, len(text)


def main() -> None:
    print(f"a decode step: {1e9 * decode_seconds():.0f} ns per sequence")
    for n_parts in (4, 48, 10_000):
        seconds, n_bytes = min(recorded(n_parts) for _ in range(ROUNDS))
        print(f"{n_parts} parts: closed and written in {1e6 * seconds:.0f} us, {n_bytes} bytes")


if __name__ == "__main__":
    main()
