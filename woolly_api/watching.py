"""Following a job on behalf of one client: through short absences of Redis, and no longer than the client stays.

Knows events and connections, no shapes: `routes/` turns what comes out into answers.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request

from woolly_api import sse
from woolly_api.services import Services
from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent

T = TypeVar("T")
AnyEvent = TokenEvent | StateEvent | DoneEvent | FailedEvent

RETRY_SECONDS = 0.5


class ClientGone(Exception):
    """The client closed its connection: nobody reads an answer."""


async def steady_batches(services: Services, job_id: str, after_seq: int) -> AsyncGenerator[list[AnyEvent]]:
    """The job's events above `after_seq`, the terminal one last; those that have come in while the caller was busy come
    together. Redis may be away for `ledger_patience_seconds`."""
    away_since: float | None = None
    while True:
        source = services.reader.event_batches(job_id, after_seq)
        try:
            async for batch in source:
                away_since = None
                after_seq = max((event.seq for event in batch if not isinstance(event, StateEvent)), default=after_seq)
                yield batch
                if isinstance(batch[-1], DoneEvent | FailedEvent):
                    return
            return
        except LedgerUnavailable:
            now = time.monotonic()
            away_since = away_since or now
            if now - away_since > services.settings.ledger_patience_seconds:
                raise
        finally:
            await sse.close(source)
        await asyncio.sleep(RETRY_SECONDS)


async def steady_events(services: Services, job_id: str, after_seq: int) -> AsyncIterator[AnyEvent]:
    """The same, one by one."""
    async with aclosing(steady_batches(services, job_id, after_seq)) as batches:
        async for batch in batches:
            for event in batch:
                yield event


async def until_gone(request: Request) -> None:
    """Returns when the client has closed its connection. The body must have been read."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; ClientGone, with `work` cancelled, if the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.wait({task, gone})
