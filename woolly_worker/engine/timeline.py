"""TimelineRecorder: what a sequence spent its time with while the engine had it, part by part, without a gap.

A part lasts until the next one begins, so nothing is counted twice and nothing is left out. Decode steps in a row are
one part: such a step costs three additions. Times come in as arguments; nothing here looks at a clock.
"""

from dataclasses import dataclass

from woolly_worker.contract.timeline import MeasuredPart, PartKind, StallCause

# A few kB in the job's record. Whatever comes later is added up by kind, so that sums stay right.
MAX_PARTS = 48
# Handing over a step's events is a put into a queue. If it takes so long, whoever takes them is held up.
HELD_UP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class SequenceTimes:
    """From the submit to the engine until the end there, in seconds of `time.monotonic`. The parts fill it."""

    began_at: float
    ended_at: float
    parts: tuple[MeasuredPart, ...]


class _Part:
    """A part under way, and then what is kept of it."""

    __slots__ = ("cause", "kind", "n_merged", "n_steps", "n_tokens", "seconds", "since", "sum_batch")

    def __init__(self, kind: PartKind, cause: StallCause | None, since: float, n_tokens: int = 0) -> None:
        self.kind = kind
        self.cause = cause
        self.since = since
        self.seconds = 0.0
        self.n_tokens = n_tokens
        self.n_steps = 0
        self.sum_batch = 0
        self.n_merged = 1

    def merge(self, other: "_Part") -> None:
        self.seconds += other.seconds
        self.n_tokens += other.n_tokens
        self.n_steps += other.n_steps
        self.sum_batch += other.sum_batch
        self.n_merged += 1

    def measured(self) -> MeasuredPart:
        return MeasuredPart(
            kind=self.kind,
            cause=self.cause,
            seconds=round(self.seconds, 6),
            n_tokens=self.n_tokens or None,
            n_steps=self.n_steps or None,
            batch_size_mean=round(self.sum_batch / self.n_steps, 3) if self.n_steps else None,
            n_merged=self.n_merged,
        )


class TimelineRecorder:
    """Begins with the wait for a seat."""

    __slots__ = ("_began_at", "_more", "_now", "_parts")

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._parts: list[_Part] = []
        self._more: dict[tuple[PartKind, StallCause | None], _Part] = {}  # beyond MAX_PARTS
        self._now = _Part(PartKind.ADMISSION, None, now)

    def admitted(self, now: float, n_cached_tokens: int) -> None:
        """Seated, for the first time or again."""
        self._begin(PartKind.STALL, StallCause.OTHERS, now)  # of no length, if it is in this very step
        if n_cached_tokens:
            self._keep(_Part(PartKind.CACHE_HIT, None, now, n_cached_tokens))

    def computed(self, n_tokens: int, batch_size: int, decoding: bool, step_began: float) -> None:
        """It took part in a step. The step lasts until the next one begins, or something else does."""
        if not decoding:
            self._begin(PartKind.PREFILL, None, step_began)
        elif self._now.kind is not PartKind.DECODE:
            self._begin(PartKind.DECODE, None, step_began)
        part = self._now
        part.n_tokens += n_tokens
        part.n_steps += 1
        part.sum_batch += batch_size

    def stalled(self, cause: StallCause, now: float) -> None:
        """It cannot go on from `now`, until it is computed again."""
        if self._now.cause is not cause:
            self._begin(PartKind.STALL, cause, now)

    def unseated(self, now: float) -> None:
        """It waits, be it that it had to give its KV blocks away or that it has never had any."""
        if self._now.kind is not PartKind.ADMISSION:
            self.stalled(StallCause.PREEMPTED, now)

    def times(self, now: float) -> SequenceTimes:
        """The sequence ends now."""
        self._begin(PartKind.STALL, None, now)
        kept = [*self._parts, *self._more.values()]
        return SequenceTimes(self._began_at, now, tuple(part.measured() for part in kept))

    def _begin(self, kind: PartKind, cause: StallCause | None, now: float) -> None:
        part, self._now = self._now, _Part(kind, cause, now)
        part.seconds = max(0.0, now - part.since)
        if part.seconds or part.n_steps:
            self._keep(part)

    def _keep(self, part: _Part) -> None:
        if len(self._parts) < MAX_PARTS:
            self._parts.append(part)
        elif (more := self._more.get((part.kind, part.cause))) is not None:
            more.merge(part)
        else:
            self._more[part.kind, part.cause] = part
