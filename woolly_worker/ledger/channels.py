"""A job's channel, subscribed to once for all of its readers in this process, with bounded memory for each of them.

The subscription is read as fast as it speaks, whoever reads slowly or has stopped. What a reader has not taken is
dropped, the oldest first: the jump in seq leads it back to the stream, as behind everything that pub/sub loses. So
neither this process nor the server's output buffers grow with what a client leaves unread, and no reader waits for
another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis.asyncio

from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent, job_event_adapter
from woolly_worker.ledger import keys
from woolly_worker.ledger.foreign import foreign

JobEvent = TokenEvent | StateEvent | DoneEvent | FailedEvent

# As much as one reader may be behind before it is sent back to the stream, where a look gives it about as much at once.
PENDING_EVENTS = 100
CONFIRMATION_SECONDS = 5.0
# A subscription that is silent for so long is asked whether it lives, and given up when it does not answer as long
# again: its connection may be half open, and readers that come later would share it.
SILENT_SECONDS = 5.0


class Listener:
    """One reader's share of a channel."""

    def __init__(self) -> None:
        self._pending: deque[JobEvent] = deque(maxlen=PENDING_EVENTS)
        self._woken = asyncio.Event()
        self._failure: Exception | None = None

    def hear(self, event: JobEvent) -> None:
        self._pending.append(event)
        self._woken.set()

    def fail(self, error: Exception) -> None:
        self._failure = error
        self._woken.set()

    async def news(self, timeout_seconds: float) -> list[JobEvent]:
        """What has come in since the last call, or the first that comes; empty when nothing did in time. Raises what
        ended the subscription."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._woken.wait()
        self._woken.clear()
        if self._failure is not None:
            raise self._failure
        taken = list(self._pending)
        self._pending.clear()
        return taken


class Channels:
    """The channels that somebody here listens to. Belongs to one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._open: dict[str, _Channel] = {}

    @asynccontextmanager
    async def listening(self, job_id: str) -> AsyncIterator[Listener]:
        """The subscription is confirmed when the block begins: no message is missed from then on. Raises redis-py's
        errors, here and out of `news`."""
        channel = self._open.get(job_id)
        if channel is None or channel.failure is not None:
            channel = self._open[job_id] = _Channel(self._client, keys.channel(job_id))
        listener = Listener()
        channel.listeners.add(listener)
        try:
            await channel.subscribed.wait()
            if channel.failure is not None:
                raise channel.failure
            yield listener
        finally:
            channel.listeners.discard(listener)
            if not channel.listeners:
                if self._open.get(job_id) is channel:
                    del self._open[job_id]
                await channel.close()


class _Channel:
    """A subscription and the task that passes its messages on. It ends with its last listener, or with an error that
    all of them hear."""

    def __init__(self, client: redis.asyncio.Redis, name: str) -> None:
        self.listeners: set[Listener] = set()
        self.subscribed = asyncio.Event()  # or failed to
        self.failure: Exception | None = None
        self._task = asyncio.create_task(self._run(client.pubsub(), name))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self, pubsub: Any, name: str) -> None:
        try:
            await pubsub.subscribe(name)
            await _confirmation(pubsub)
            self.subscribed.set()
            await self._pass_on(pubsub, name)
        except Exception as error:
            self.failure = error
            self.subscribed.set()
            for listener in self.listeners:
                listener.fail(error)
        finally:
            await pubsub.aclose()

    async def _pass_on(self, pubsub: Any, name: str) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=SILENT_SECONDS)
            if message is None:
                if asked:
                    raise redis.exceptions.TimeoutError("a subscription does not answer")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "message":
                try:
                    event = job_event_adapter.validate_json(message["data"])
                except ValueError:
                    foreign.tell("message", name, "it is no event")
                    continue
                for listener in self.listeners:
                    listener.hear(event)


async def _confirmation(pubsub: Any) -> None:
    """Waits until the server has confirmed the subscription: from then on no message is missed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CONFIRMATION_SECONDS):
            while True:
                message = await pubsub.get_message(timeout=1.0)
                if message is not None and message["type"] == "subscribe":
                    return
    raise redis.exceptions.TimeoutError("the subscription was not confirmed")
