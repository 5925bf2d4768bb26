"""What a caller is told about waiting: the place of a job in the queue, when it may start, and when to come again.

And of waiting in vain: a job that no worker could hold. The numbers are the ledger's (see ledger/backlog.py); this adds
what heartbeats tell: how many slots are alive, and how long a context they have.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from woolly_worker.contract.context import check_fits
from woolly_worker.contract.errors import ContextOverflow, InternalError, QueueFull
from woolly_worker.contract.jobs import JobRequest, JobView
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.models import ModelCard, WorkerBeat, WorkerStats
from woolly_worker.ledger.reader import LedgerReader

# Workers tell no more often than every two seconds, and polls may be many.
CAPACITY_SECONDS = 1.0

SHORTEST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 600.0
# Nobody is alive to drain the queue, or nothing has been measured: somebody may start a worker meanwhile.
UNKNOWN_RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The live workers of one model together."""

    slots: int = 0
    tokens_per_second: float = 0.0  # while busy, since they started; for as long as the backlog has no speed
    contexts: tuple[int | None, ...] = ()  # n_ctx of each; None: it is of a version that does not tell

    @property
    def largest_context(self) -> int | None:
        """None when nobody serves the model, or somebody does not tell."""
        known = [n_ctx for n_ctx in self.contexts if n_ctx is not None]
        return max(known) if known and len(known) == len(self.contexts) else None


class Forecast:
    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._capacities: dict[str, Capacity] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def told(self, views: Sequence[JobView]) -> list[JobView]:
        """The same views, the queued ones with their place and their estimated start."""
        queued = [view for view in views if view.state is JobState.QUEUED]
        backlogs, found_places = await self._reader.queues(queued)
        places = {view.id: place for view, place in zip(queued, found_places, strict=True)}
        found = []
        for view in views:
            ahead = places.get(view.id)
            if ahead is not None:
                backlog, capacity = backlogs[view.model], await self._capacity(view.model)
                seconds = backlog.start_seconds(
                    ahead, slots=capacity.slots, tokens_per_second=capacity.tokens_per_second
                )
                if capacity.slots == 0:
                    seconds = None
                estimate = None if seconds is None else round(seconds, 1)
                view = view.model_copy(update={"queue_position": ahead, "estimated_start_seconds": estimate})
            found.append(view)
        return found

    async def retry_after_seconds(self, model: str, full: QueueFull) -> float:
        """Until the backlog is expected to have room for the job that was refused."""
        capacity = await self._capacity(model)
        if capacity.slots == 0:
            return UNKNOWN_RETRY_SECONDS
        over = full.details
        seconds = (await self._reader.backlog(model)).room_seconds(
            over["queued"] + 1 - over["limit"] if "queued" in over else 0,
            over["queued_tokens"] + over["job_tokens"] - over["limit"] if "queued_tokens" in over else 0,
            tokens_per_second=capacity.tokens_per_second,
        )
        if seconds is None:
            return UNKNOWN_RETRY_SECONDS
        return min(max(seconds, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)

    async def check_fits(self, request: JobRequest, card: ModelCard) -> None:
        """Raises ContextOverflow for what no worker that serves the model now could hold. Unless somebody serves it,
        everything may fit: who comes decides."""
        n_prompt = len(request.prompt) if isinstance(request.prompt, tuple) else None
        largest = (await self._capacity(request.model)).largest_context
        try:
            check_fits(
                min(card.n_ctx, largest or card.n_ctx), n_prompt=n_prompt, max_tokens=request.sampling.max_tokens
            )
        except ContextOverflow:
            # By what was known a moment ago. The card is that of whoever told last, and a larger worker may be new.
            largest = (await self._capacity(request.model, fresh=True)).largest_context
            if largest is not None:
                check_fits(largest, n_prompt=n_prompt, max_tokens=request.sampling.max_tokens)

    async def _capacity(self, model: str, *, fresh: bool = False) -> Capacity:
        async with self._reading:
            if fresh or self._read_at is None or time.monotonic() - self._read_at > CAPACITY_SECONDS:
                found: dict[str, Capacity] = {}
                for beat in await self._beats():
                    if beat.state == "ready":
                        so_far = found.get(beat.model, Capacity())
                        speed = so_far.tokens_per_second + _busy_rate(beat.stats)
                        contexts = (*so_far.contexts, beat.n_ctx)
                        found[beat.model] = Capacity(so_far.slots + max(1, beat.stats.slots), speed, contexts)
                self._capacities, self._read_at = found, time.monotonic()
        return self._capacities.get(model, Capacity())

    async def _beats(self) -> list[WorkerBeat]:
        """None where the list of workers is somebody else's word: it says nothing of any capacity, and is no reason to
        refuse a job. A reaper moves it out of the way, and says so."""
        try:
            return await self._reader.workers()
        except InternalError:
            return []


def _busy_rate(stats: WorkerStats) -> float:
    """Tokens per second of work. Rates of the last seconds would be those of the demand when there is little."""
    tokens = stats.generated_tokens_total + stats.prompt_tokens_total - stats.cached_tokens_total
    return tokens / stats.busy_seconds_total if stats.busy_seconds_total else 0.0
