"""Server-sent events: framing, heartbeats, and streams that notice at once when their reader has gone.

Not sse-starlette: it logs every chunk (that is text of a completion), replaces uvicorn's signal handler for the whole
process, and cannot say "the client left before the end" to whoever has to cancel a job then.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def frame(data: str, *, event: str | None = None, id_: int | None = None) -> bytes:
    """One event. `data` is JSON on one line."""
    lines = []
    if id_ is not None:
        lines.append(f"id: {id_}\n")
    if event is not None:
        lines.append(f"event: {event}\n")
    lines.append(f"data: {data}\n\n")
    return "".join(lines).encode()


def json_line(body: object) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def comment(text: str) -> bytes:
    """What clients skip, and proxies take as a sign of life."""
    return f": {text}\n\n".encode()


HEARTBEAT = comment("heartbeat")
DONE = frame("[DONE]")


class EventStream(StreamingResponse):
    """A stream that calls `on_close` before the response returns, on every path: at its end, when its reader leaves,
    and also when the reader has left before the generator took its first step (whose `finally` then never runs)."""

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        on_close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
        on_open: Callable[[int], None] = lambda by: None,
    ) -> None:
        """`on_open` is told +1 when the stream starts and -1 when it ends."""
        super().__init__(frames, headers={**HEADERS, **(headers or {})})
        self._on_open = on_open
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._on_open(+1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_open(-1)
            await close(self.body_iterator)
            await self._on_close()


async def close(iterator: object) -> None:
    """Close an async generator, or whatever else has `aclose`."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


class Feed(Generic[T]):
    """Reads an async iterator with time limits: a wait that ends without an item disturbs nothing."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._next: asyncio.Task[T] | None = None

    async def get(self, timeout_seconds: float, *, unless: asyncio.Event | None = None) -> T | None:
        """The next item, or None when none came in time, or before `unless` was set. EOFError at the end."""
        if self._next is None:
            self._next = asyncio.ensure_future(_first(self._source))
        if not self._next.done():
            waits: set[asyncio.Future[Any]] = {self._next}
            stop = None if unless is None else asyncio.ensure_future(unless.wait())
            if stop is not None:
                waits.add(stop)
            try:
                await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if stop is not None:
                    stop.cancel()
        if not self._next.done():
            return None
        finished, self._next = self._next, None
        return finished.result()

    async def aclose(self) -> None:
        pending, self._next = self._next, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
            if not pending.cancelled():
                pending.exception()  # looked at, so that asyncio does not report it as forgotten
        await close(self._source)


async def _first(source: AsyncIterator[T]) -> T:
    try:
        return await anext(source)
    except StopAsyncIteration:
        raise EOFError from None
