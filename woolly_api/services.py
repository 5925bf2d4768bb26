"""What the routes stand on: one object per app, made at startup, handed to every request.

It decides nothing about HTTP. Calls of the synchronous ledger run in threads; nothing here blocks the event loop.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from woolly_api.doorbell import Doorbell
from woolly_api.forecast import Forecast
from woolly_api.settings import ApiSettings
from woolly_api.telemetry import ApiMetrics, log
from woolly_worker.contract.errors import (
    ContextOverflow,
    InvalidRequest,
    JobNotFound,
    LedgerUnavailable,
    ModelNotFound,
    QueueFull,
    no_chat_template,
)
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.persistence import Persistence, read_persistence
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Bell, BenchmarkCall, Once, Submitted

P = ParamSpec("P")
R = TypeVar("R")

ABANDON_ATTEMPTS = 5
ASK_AGAIN_SECONDS = 2.0
# A thread that writes a record and was given up has ended after so long, or never will.
RECORD_SECONDS = 60.0


@dataclass(slots=True)
class Services:
    settings: ApiSettings
    metrics: ApiMetrics
    ledger: Ledger
    reader: LedgerReader
    doorbell: Doorbell
    forecast: Forecast = field(init=False)
    # Set when the server begins to shut down: open job streams and waits end, their clients resume elsewhere.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.forecast = Forecast(self.reader)

    async def submit(self, request: JobRequest, *, once: Once | None = None, followed: bool = False) -> Submitted:
        """Record first, then the bell. `followed`: the job is for a client who waits, see Ledger.submit.

        ModelNotFound (with the models that could be asked for), InvalidRequest (a chat with a model that has no
        template), ContextOverflow (of what no worker of the model could hold), QueueFull, IdempotencyKeyReused,
        LedgerUnavailable, LedgerFull, LedgerVersionMismatch."""
        await self.reader.check_version()
        known = {card.name: card for card in await self.reader.models()}
        if request.model not in known:
            raise ModelNotFound(
                f"no worker has ever announced the model '{request.model}'",
                param="model",
                details={"available_models": list(known)},
            )
        try:
            if request.messages is not None and not known[request.model].chat:
                raise no_chat_template()
            await self.forecast.check_fits(request, known[request.model])
        except (InvalidRequest, ContextOverflow):
            # A job that was accepted under this key is answered with, whoever serves its model by now.
            if once is None or not await self.reader.has_key(request.tenant, once.key):
                raise
        job_id = uuid.uuid4().hex
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def record() -> Submitted:
            try:
                return self.ledger.submit(
                    request,
                    job_id=job_id,
                    once=once,
                    follow_seconds=self.settings.follower_grace_seconds if followed else None,
                    max_queued=self.settings.max_queued_jobs,
                    max_queued_tokens=self.settings.max_queued_tokens,
                )
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(over.set)

        try:
            submitted = await self._in_thread(record)
        except LedgerUnavailable:
            # The caller is told that it did not work and will ask again. If the record was written and only the
            # reply was lost, or the record is still on its way, it must not run as well. With a key it may: who asks
            # again gets this very job, perhaps has got it already, and a completion that nobody follows is cancelled.
            if once is None:
                self._cancel_in_background(job_id, over)
            raise
        except QueueFull as full:
            full.retry_after_seconds = await self.forecast.retry_after_seconds(request.model, full)
            raise
        if submitted.replayed:
            self.metrics.replayed.labels(request.model).inc()
            return submitted
        # The id is new, so "submitted before" means that the first reply was lost on its way: nobody rang yet.
        bell = submitted.bell or Bell(job_id, request.model, 1)
        self.doorbell.ring(bell)
        self.metrics.submitted.labels(request.model).inc()
        return submitted

    async def persistence(self) -> Persistence:
        return await self._in_thread(read_persistence, self.ledger.client)

    async def tell_persistence(self) -> None:
        """One log line about what the server keeps, as soon as it answers."""
        while True:
            try:
                found = await self.persistence()
            except LedgerUnavailable:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                continue
            if found.keeps_jobs:
                log.info("redis keeps jobs", **found.fields())
            else:
                log.warning("redis may lose jobs: its append-only file is off", **found.fields())
            return

    async def cancel(self, job_id: str) -> JobState:
        return await self._in_thread(self.ledger.cancel, job_id)

    async def ask_for_benchmark(self, call: BenchmarkCall, seconds: float) -> None:
        """Ring for it; a worker that gets to it after `seconds` leaves it alone."""
        await self._in_thread(self.ledger.await_answer, call.call_id, seconds=seconds)
        self.doorbell.ring(call)

    def abandon(self, job_id: str) -> None:
        """Cancel a job whose client has gone, in the background. May be called from a cancelled task."""
        self.metrics.abandoned.inc()
        self._cancel_in_background(job_id)

    def _cancel_in_background(self, job_id: str, recorded: asyncio.Event | None = None) -> None:
        task = asyncio.get_running_loop().create_task(self._cancel_patiently(job_id, recorded))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _cancel_patiently(self, job_id: str, recorded: asyncio.Event | None) -> None:
        """`recorded`: set once the thread that writes the record has ended; until then there may be no job yet."""
        for attempt in range(ABANDON_ATTEMPTS):
            is_final = recorded is None or recorded.is_set()
            try:
                state = await self.cancel(job_id)
            except JobNotFound:
                if recorded is None or is_final:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(recorded.wait(), RECORD_SECONDS)
            except LedgerUnavailable:
                await asyncio.sleep(2**attempt)
            else:
                log.info("job without a client cancelled", job_id=job_id, state=state)
                return
        log.warning("job without a client could not be cancelled", job_id=job_id)

    async def settle(self, timeout_seconds: float) -> None:
        """Give background cancellations this long; called once, at shutdown."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=timeout_seconds)
        for task in set(self._background):
            task.cancel()

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """A stalled server must not hold the caller for longer than the ledger's own attempts take."""
        try:
            with anyio.fail_after(4 * self.settings.redis_timeout_seconds):
                return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)
        except TimeoutError as error:
            raise LedgerUnavailable("Redis does not answer in time") from error


def services_of(request: Request) -> Services:
    services: Any = request.app.state.services
    assert isinstance(services, Services)
    return services


Injected = Annotated[Services, Depends(services_of)]
