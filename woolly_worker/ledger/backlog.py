"""The queue of a model, as a forecast: what a job may cost, what comes before it, and how long that takes.

The unit is the token that a job *may* take: its prompt, and all that it may generate. Most jobs end earlier, and prompt
tokens are cheaper than generated ones; that does not matter for times, because the speed is measured in the same unit
(shared.lua, measure_drain): tokens of the jobs that ended, over the time in which they did while others waited.

Everything here is made from one read of the lanes' hash; no job is looked at but the one in question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Self

from woolly_worker.contract.jobs import JobRequest
from woolly_worker.ledger import keys

# Estimates, because a prompt is tokenized by the worker. English has about four bytes of UTF-8 a token.
BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 8  # what a chat template puts around a turn
UNLIMITED_COMPLETION_TOKENS = 512  # of a job without max_tokens, which may fill the context, but seldom does

MIN_DRAIN_MS = 1.0
MOST_EVIDENCE_JOBS = 32  # half of what measure_drain remembers


def cost_tokens(request: JobRequest) -> int:
    """Tokens that the job may take. Exact for a prompt of token ids and a `max_tokens` that is used up."""
    if isinstance(request.prompt, tuple):
        prompt = len(request.prompt)
    elif request.prompt is not None:
        prompt = _tokens_of(request.prompt)
    else:
        prompt = sum(TOKENS_PER_MESSAGE + _tokens_of(message.content) for message in request.messages or ())
    return prompt + (request.sampling.max_tokens or UNLIMITED_COMPLETION_TOKENS)


def _tokens_of(text: str) -> int:
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued job stands: its lane, and the number of its bell there."""

    lane: int
    priority: int
    enq: int

    @classmethod
    def of(cls, fields: Sequence[str | None]) -> Self | None:
        """From the fields of PLACE_FIELDS; None for a record that is gone."""
        lane, priority, enq = fields
        if lane is None or priority is None or enq is None:
            return None
        return cls(int(lane), int(priority), int(enq))


PLACE_FIELDS = ["lane", "priority", "enq"]


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is expected to be started before a job."""

    jobs: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Lane:
    """The jobs of one priority that wait in a lane."""

    jobs: int
    tokens: int
    claimed: int  # the highest bell that was answered

    def first(self, n: float) -> float:
        """Tokens of the first `n` of them, if all are alike."""
        return self.tokens * n / self.jobs if self.jobs else 0.0


@dataclass(frozen=True, slots=True)
class Backlog:
    lanes: Mapping[tuple[int, int], Lane]  # by priority and lane
    queued: int
    queued_tokens: int
    running: int
    tokens_per_second: float | None  # measured; None as long as no job ended while another waited

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        def number(name: str) -> int:
            return max(0, int(fields.get(name, 0)))

        lanes = {}
        for priority in range(keys.N_PRIORITIES):
            for lane in range(keys.N_LANES):
                place = f"l{lane}:p{priority}"
                if jobs := number(f"{place}:queued"):
                    lanes[priority, lane] = Lane(jobs, number(f"{place}:tokens"), number(f"{place}:claimed"))
        queued, queued_tokens, running = number("all:queued"), number("all:queued_tokens"), number("all:running")
        tokens, milliseconds = float(fields.get("drain:tokens", 0)), float(fields.get("drain:ms", 0))
        # Of jobs that began together the shortest end first, while the work on the others does not show yet: until as
        # much has ended as is running, the speed would be far too low.
        enough = min(running, MOST_EVIDENCE_JOBS) * queued_tokens / max(1, queued)
        return cls(
            lanes=lanes,
            queued=queued,
            queued_tokens=queued_tokens,
            running=running,
            tokens_per_second=1000 * tokens / max(milliseconds, MIN_DRAIN_MS) if tokens and tokens >= enough else None,
        )

    def ahead(self, place: Place) -> Ahead:
        """In the order of the workers: the lower priority number first, then lanes in turn, and in a lane by age.

        Exact as long as nobody cancels, but for where in their round the workers are: of the other lanes that still
        have jobs when this one's turn comes, half are taken to come before it.
        """
        jobs, tokens = 0.0, 0.0
        for (priority, _), lane in self.lanes.items():
            if priority < place.priority:
                jobs += lane.jobs
                tokens += lane.tokens
        own = self.lanes.get((place.priority, place.lane))
        if own is None:
            return Ahead(int(jobs), tokens)
        # Bells of cancelled jobs leave gaps in the numbers, so there may be fewer.
        before = min(max(0, place.enq - own.claimed - 1), own.jobs - 1)
        for (priority, number), lane in self.lanes.items():
            if priority == place.priority:
                n = before if number == place.lane else min(lane.jobs, before + 0.5)
                jobs += n
                tokens += lane.first(n)
        return Ahead(int(jobs), tokens)

    @property
    def mean_tokens(self) -> float:
        """Of a waiting job."""
        return self.queued_tokens / self.queued if self.queued else 0.0

    def start_seconds(self, ahead: Ahead, *, slots: int, tokens_per_second: float | None) -> float | None:
        """Until a job with this before it is claimed. `slots` of the live workers; `tokens_per_second` is taken as long
        as the backlog has none of its own. None when neither knows.

        Each job ahead, and this one, takes a slot that is free or the next to become free."""
        free = max(0, slots - self.running)
        if ahead.jobs < free:
            return 0.0
        speed = self.tokens_per_second or tokens_per_second
        if not speed:
            return None
        return max(0.0, ahead.tokens + (1 - free) * self.mean_tokens) / speed

    def room_seconds(self, jobs: int, tokens: int, *, tokens_per_second: float | None) -> float | None:
        """Until so many jobs and tokens of the backlog are gone. None when the speed is not known."""
        speed = self.tokens_per_second or tokens_per_second
        return max(jobs * self.mean_tokens, tokens) / speed if speed else None
