"""Reading a stream while it is written, against a real server: nothing missing, nothing twice, always an end."""

import asyncio
from contextlib import closing

import pytest
from streams import LEASE, collected, finish, reading, run, running, seqs, write

from woolly_worker.contract.errors import JobNotFound, LedgerUnavailable
from woolly_worker.contract.events import DoneEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry, WorkerBeat
from woolly_worker.ledger.reader import JobEvent, LedgerReader
from woolly_worker.ledger.records import Claim, Emission


def test_a_finished_stream_is_replayed_from_any_point(ledger: Ledger, redis_url: str) -> None:
    claim = running(ledger, "j")
    write(ledger, "j", 1, 2, 3)
    finish(ledger, claim, 3)

    async def test() -> None:
        async with reading(redis_url) as reader:
            for after in range(6):
                events = await collected(reader, "j", after)
                assert seqs(events) == list(range(after + 1, 5))
                assert not any(isinstance(event, StateEvent) for event in events)
            assert isinstance((await collected(reader, "j"))[-1], DoneEvent)

    run(test)


@pytest.mark.parametrize("hears", [True, False])
def test_who_asks_from_beyond_the_end_hears_the_end_all_the_same(ledger: Ledger, redis_url: str, hears: bool) -> None:
    claim = running(ledger, "j")

    async def test() -> None:
        async with reading(redis_url, quiet_seconds=20 if hears else 0.1) as reader:
            stream = reader.events("j", 4000)
            assert isinstance(await anext(stream), StateEvent)
            write(ledger, "j", 1)
            if hears:
                finish(ledger, claim, 1)
            else:  # the news was lost: found after a quiet time
                ledger.client.hset(keys.job("j"), mapping={"state": "succeeded", "end_seq": 2})
            assert seqs([event async for event in stream]) == []

    run(test)


def test_many_readers_of_a_stream_that_is_being_written(ledger: Ledger, redis_url: str) -> None:
    n = 300
    claim = running(ledger, "j")

    async def test() -> None:
        def produce() -> None:
            for seq in range(1, n + 1):
                write(ledger, "j", seq)
            finish(ledger, claim, n)

        async def late(reader: LedgerReader, delay: float) -> list[JobEvent]:
            await asyncio.sleep(delay)
            return await collected(reader, "j")

        async with reading(redis_url) as reader:
            readers = [asyncio.create_task(late(reader, i * 0.01)) for i in range(8)]
            await asyncio.to_thread(produce)
            for events in await asyncio.gather(*readers):
                assert seqs(events) == list(range(1, n + 2))

    run(test)


def test_what_pubsub_lost_is_read_from_the_stream(ledger: Ledger, redis_url: str) -> None:
    claim = running(ledger, "j")

    async def test() -> None:
        async with reading(redis_url, quiet_seconds=0.1) as reader:
            stream = reader.events("j")
            assert isinstance(await anext(stream), StateEvent)
            write(ledger, "j", 1)
            assert (await anext(stream)).type == "token"
            # Written without being published, as if the connection had been broken just then.
            ledger.client.xadd(
                keys.events("j"), {"e": TokenEvent(seq=2, token_id=2, text="b").model_dump_json()}, "2-0"
            )
            ledger.client.hset(keys.job("j"), "seq", 2)
            assert seqs([await anext(stream)]) == [2]  # found after a quiet time
            ledger.client.xadd(
                keys.events("j"), {"e": TokenEvent(seq=3, token_id=3, text="c").model_dump_json()}, "3-0"
            )
            ledger.client.hset(keys.job("j"), "seq", 3)
            write(ledger, "j", 4)
            assert seqs([await anext(stream), await anext(stream)]) == [3, 4]  # found by the jump
            finish(ledger, claim, 4)
            assert seqs([event async for event in stream]) == [5]

    run(test)


def test_readers_hear_of_the_job_between_its_tokens(ledger: Ledger, redis_url: str) -> None:
    ledger.submit(JobRequest(model="tiny", prompt="x"), job_id="j")

    async def test() -> None:
        async with reading(redis_url) as reader:
            stream = reader.events("j")
            assert await anext(stream) == StateEvent(state=JobState.QUEUED)
            claim = ledger.claim("j", "w", lease_seconds=LEASE)
            assert isinstance(claim, Claim)
            assert await anext(stream) == StateEvent(state=JobState.RUNNING, attempt=1)
            ledger.emit([Emission("j", 1, StateEvent(state=JobState.RUNNING, prefill_done=1))], lease_seconds=LEASE)
            assert (await anext(stream)) == StateEvent(state=JobState.RUNNING, prefill_done=1)
            ledger.release("j", 1, "tiny")
            assert await anext(stream) == StateEvent(state=JobState.QUEUED, attempt=1)
            ledger.cancel("j")
            assert [event.type async for event in stream] == ["failed"]

    run(test)


def test_waiting_for_the_end(ledger: Ledger, redis_url: str) -> None:
    claim = running(ledger, "j")
    write(ledger, "j", 1)

    async def test() -> None:
        async with reading(redis_url) as reader:
            assert (await reader.wait_terminal("j", 0.1)).state is JobState.RUNNING
            assert await reader.result("j") is None
            waiting = asyncio.create_task(reader.wait_terminal("j", 10))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(finish, ledger, claim, 1)
            assert (await waiting).state is JobState.SUCCEEDED
            result = await reader.result("j")
            assert result is not None
            assert result.text == "text"
            assert (await reader.wait_terminal("j", 10)).state is JobState.SUCCEEDED

    run(test)


def test_unknown_and_vanished_jobs(ledger: Ledger, redis_url: str) -> None:
    running(ledger, "gone")

    async def test() -> None:
        async with reading(redis_url, quiet_seconds=0.05) as reader:
            for call in (
                reader.view("no"),
                reader.result("no"),
                collected(reader, "no"),
                reader.wait_terminal("no", 1),
            ):
                with pytest.raises(JobNotFound):
                    await call
            stream = reader.events("gone")
            await anext(stream)
            ledger.client.delete(keys.job("gone"))
            with pytest.raises(JobNotFound):
                await anext(stream)

    run(test)


def test_jobs_are_listed_newest_first(ledger: Ledger, redis_url: str) -> None:
    claims = [running(ledger, f"j{i}") for i in range(4)]
    finish(ledger, claims[1], 0)
    for i, job_id in enumerate(["j0", "j1", "j2", "j3"]):
        ledger.client.hset(keys.job(job_id), "created_ms", 1000 + i)

    async def test() -> None:
        async with reading(redis_url) as reader:
            assert [view.id for view in await reader.jobs()] == ["j3", "j2", "j1", "j0"]
            assert [view.id for view in await reader.jobs(limit=2)] == ["j3", "j2"]
            counts = await reader.lane_counts("tiny")
            assert (counts.running, counts.succeeded) == (3, 1)

    run(test)


def test_a_long_backlog_is_not_read_to_list_a_few(ledger: Ledger, redis_url: str) -> None:
    with ledger.client.pipeline() as pipe:
        for i in range(3000):
            pipe.hset(keys.job(f"j{i}"), mapping={"state": "queued", "model": "tiny", "tenant": "t", "created_ms": i})
            pipe.zadd(keys.OPEN_JOBS, {f"j{i}": -i})
        pipe.execute()
    ledger.client.zadd(keys.OPEN_JOBS, {"vanished": 1})
    ledger.client.config_resetstat()

    async def test() -> None:
        async with reading(redis_url) as reader:
            assert [view.id for view in await reader.jobs(limit=3)] == ["j2999", "j2998", "j2997"]

    run(test)
    calls = ledger.client.info("commandstats")
    assert calls["cmdstat_hmget"]["calls"] == 3


def test_models_and_their_workers(redis_url: str) -> None:
    card = ModelCard(name="tiny", architecture="llama", n_ctx=512)
    beat = WorkerBeat(worker_id="w1", model="tiny", hostname="h", pid=1)
    with closing(connect(redis_url)) as client:
        registry = ModelRegistry(client)
        registry.announce(card)
        first = client.hget(keys.MODELS, "tiny")
        registry.announce(card)  # again and again: since when it is known stays
        assert client.hget(keys.MODELS, "tiny") == first
        registry.beat(beat)
        registry.beat(beat.model_copy(update={"worker_id": "w2"}), ttl_seconds=0.05)

        async def test() -> None:
            async with reading(redis_url) as reader:
                (found,) = await reader.models()
                assert found.announced_at is not None
                assert found.model_copy(update={"announced_at": None}) == card
                await asyncio.sleep(0.1)
                assert await reader.workers() == [beat]  # the other one fell silent
                registry.leave("w1")
                assert await reader.workers() == []
                assert [card.name for card in await reader.models()] == ["tiny"]  # known for ever

        run(test)
        assert registry.workers() == []
        assert [card.name for card in registry.cards()] == ["tiny"]


def test_redis_away_is_one_error() -> None:
    async def test() -> None:
        async with reading("redis://127.0.0.1:1/0") as reader:
            calls = (reader.ping(), reader.view("j"), reader.jobs(), reader.models(), collected(reader, "j"))
            for call in calls:
                with pytest.raises(LedgerUnavailable):
                    await call

    run(test)
