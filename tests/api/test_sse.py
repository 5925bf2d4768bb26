"""Framing, and waiting with a time limit without losing what arrives later."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from woolly_api import sse


def test_frames() -> None:
    assert sse.frame("{}") == b"data: {}\n\n"
    assert sse.frame("{}", event="token", id_=7) == b"id: 7\nevent: token\ndata: {}\n\n"
    assert sse.comment("heartbeat") == b": heartbeat\n\n"
    assert sse.DONE == b"data: [DONE]\n\n"


@given(st.text())
def test_no_text_breaks_a_frame(text: str) -> None:
    """JSON keeps line ends out of the frame: one data line, whatever was generated."""
    line = sse.json_line({"text": text})
    assert "\n" not in line
    assert "\r" not in line


def test_a_wait_that_ends_without_an_item_loses_nothing() -> None:
    async def scenario() -> list[int | None]:
        gate = asyncio.Event()
        closed = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            try:
                yield 1
                await gate.wait()
                yield 2
            finally:
                closed.set()

        feed = sse.Feed(source())
        seen = [await feed.get(1), await feed.get(0.01), await feed.get(0.01)]
        gate.set()
        seen.append(await feed.get(1))
        with pytest.raises(EOFError):
            await feed.get(1)
        await feed.aclose()
        assert closed.is_set()
        return seen

    assert asyncio.run(scenario()) == [1, None, None, 2]


def test_closing_while_waiting_closes_the_source() -> None:
    async def scenario() -> bool:
        closed = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            try:
                await asyncio.sleep(60)
                yield 1
            finally:
                closed.set()

        feed = sse.Feed(source())
        assert await feed.get(0.01) is None
        await feed.aclose()
        return closed.is_set()

    assert asyncio.run(scenario())


def test_a_wait_ends_early_when_told() -> None:
    async def scenario() -> None:
        async def source() -> AsyncIterator[int]:
            await asyncio.sleep(60)
            yield 1

        feed, stop = sse.Feed(source()), asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, stop.set)
        async with asyncio.timeout(5):
            assert await feed.get(60, unless=stop) is None
        await feed.aclose()

    asyncio.run(scenario())


def test_what_the_source_raises_reaches_the_reader() -> None:
    async def scenario() -> None:
        async def source() -> AsyncIterator[int]:
            raise ValueError("broken")
            yield 1

        feed = sse.Feed(source())
        with pytest.raises(ValueError, match="broken"):
            await feed.get(1)
        await feed.aclose()

    asyncio.run(scenario())


def test_a_reader_who_left_before_the_first_byte_is_noticed() -> None:
    """The generator never takes a step then, so cleaning up cannot be left to its `finally`."""

    async def scenario() -> list[str]:
        told: list[str] = []

        async def frames() -> AsyncIterator[bytes]:
            told.append("started")
            yield b""

        async def on_close() -> None:
            await asyncio.sleep(0)  # outside of what was cancelled: waiting works
            told.append("closed")

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await asyncio.sleep(0)

        opened: list[int] = []
        await sse.EventStream(frames(), on_close=on_close, on_open=opened.append)({"type": "http"}, receive, send)
        assert sum(opened) == 0
        return told

    assert asyncio.run(scenario()) == ["closed"]
