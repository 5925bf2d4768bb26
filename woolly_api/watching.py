"""Following a job on behalf of one client: through short absences of Redis, and no longer than the client stays.

Knows events and connections, no shapes: `routes/` turns what comes out into answers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
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


async def steady_events(services: Services, job_id: str, after_seq: int) -> AsyncIterator[AnyEvent]:
    """The job's events above `after_seq`, the terminal one last. Redis may be away for `ledger_patience_seconds`."""
    away_since: float | None = None
    while True:
        source = services.reader.events(job_id, after_seq)
        try:
            async for event in source:
                away_since = None
                if not isinstance(event, StateEvent):
                    after_seq = event.seq
                yield event
                if isinstance(event, DoneEvent | FailedEvent):
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
