"""One subscription for all readers of a job here: none waits for another, and none keeps more than its share."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import redis
from scripted import eventually
from streams import collected, finish, reading, run, running, seqs, write

from woolly_worker.contract.events import TokenEvent
from woolly_worker.ledger import channels, keys
from woolly_worker.ledger.channels import PENDING_EVENTS, Channels, Listener
from woolly_worker.ledger.connection import connect, connect_async
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.server import EmbeddedServer


@asynccontextmanager
async def listening(url: str, job_id: str) -> AsyncIterator[Listener]:
    client = connect_async(url)
    try:
        async with Channels(client).listening(job_id) as listener:
            yield listener
    finally:
        await client.aclose()


def n_subscriptions(ledger: Ledger, job_id: str) -> int:
    ((_, n),) = ledger.client.pubsub_numsub(keys.channel(job_id))
    return int(n)


def test_readers_share_a_subscription_and_the_last_one_ends_it(ledger: Ledger, redis_url: str) -> None:
    claim = running(ledger, "j")

    async def test() -> None:
        async with reading(redis_url) as reader:
            streams = [reader.events("j") for _ in range(5)]
            for stream in streams:
                await anext(stream)  # the state it is in
            assert n_subscriptions(ledger, "j") == 1
            for stream in streams[1:]:
                await stream.aclose()  # type: ignore[attr-defined]
            assert n_subscriptions(ledger, "j") == 1
            await asyncio.to_thread(write, ledger, "j", 1, 2)
            assert seqs([await anext(streams[0]), await anext(streams[0])]) == [1, 2]
            await asyncio.to_thread(finish, ledger, claim, 2)
            assert seqs([event async for event in streams[0]]) == [3]
            eventually(lambda: n_subscriptions(ledger, "j") == 0)

    run(test)


def test_a_reader_that_stops_holds_up_nobody_and_finds_all_when_it_goes_on(ledger: Ledger, redis_url: str) -> None:
    n = 5 * PENDING_EVENTS
    claim = running(ledger, "j")

    async def test() -> None:
        async with reading(redis_url) as reader:
            stopped = reader.events("j")
            await anext(stopped)
            reads = asyncio.create_task(collected(reader, "j"))
            for first in range(1, n, 10):
                await asyncio.to_thread(write, ledger, "j", *range(first, first + 10))
            await asyncio.to_thread(finish, ledger, claim, n)
            assert seqs(await reads) == list(range(1, n + 2))
            assert seqs([event async for event in stopped]) == list(range(1, n + 2))

    run(test)


def test_what_a_reader_leaves_is_dropped_oldest_first() -> None:
    async def test() -> None:
        listener = Listener()
        for seq in range(1, 10 * PENDING_EVENTS + 1):
            listener.hear(TokenEvent(seq=seq, token_id=1, text=""))
        news = await listener.news(1)
        assert seqs(news) == list(range(9 * PENDING_EVENTS + 1, 10 * PENDING_EVENTS + 1))
        assert await listener.news(0.01) == []

    run(test)


def test_a_quiet_subscription_is_asked_and_lives_on(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SILENT_SECONDS", 0.05)
    running(ledger, "j")

    async def test() -> None:
        async with listening(redis_url, "j") as listener:
            assert await listener.news(0.5) == []  # asked several times
            await asyncio.to_thread(write, ledger, "j", 1)
            assert seqs(await listener.news(10)) == [1]

    run(test)


def test_a_subscription_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who listen are told, and who comes later gets another one."""
    monkeypatch.setattr(channels, "SILENT_SECONDS", 0.1)
    with EmbeddedServer(tmp_path) as server, closing(connect(server.url)) as client:
        ledger = Ledger(client)
        running(ledger, "j")

        async def test() -> None:
            async_client = connect_async(server.url)
            shared = Channels(async_client)
            async with shared.listening("j") as first, shared.listening("j") as second:
                os.kill(server.pid, signal.SIGSTOP)
                try:
                    for listener in (first, second):
                        with pytest.raises(redis.exceptions.TimeoutError, match="does not answer"):
                            await listener.news(60)
                finally:
                    os.kill(server.pid, signal.SIGCONT)
                monkeypatch.setattr(channels, "SILENT_SECONDS", 60)
                async with shared.listening("j") as later:
                    await asyncio.to_thread(write, ledger, "j", 1)
                    assert seqs(await later.news(10)) == [1]
            await async_client.aclose()

        run(test)
