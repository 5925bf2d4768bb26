"""Streams for tests: written through the ledger, read through a reader of its own, and never waited for in vain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from woolly_worker.contract.events import DoneEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, Usage
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.reader import JobEvent, LedgerReader
from woolly_worker.ledger.records import Claim, Emission, Finish

LEASE = 30.0


@asynccontextmanager
async def reading(url: str, *, quiet_seconds: float = 2.0) -> AsyncIterator[LedgerReader]:
    client = connect_async(url)
    try:
        yield LedgerReader(client, quiet_seconds=quiet_seconds)
    finally:
        await client.aclose()


def running(ledger: Ledger, job_id: str) -> Claim:
    ledger.submit(JobRequest(model="tiny", prompt="x"), job_id=job_id)
    claim = ledger.claim(job_id, "w", lease_seconds=LEASE)
    assert isinstance(claim, Claim)
    return claim


def write(ledger: Ledger, job_id: str, *seqs: int) -> None:
    tokens = [Emission(job_id, 1, TokenEvent(seq=seq, token_id=seq, text=f" {seq}")) for seq in seqs]
    ledger.emit(tokens, lease_seconds=LEASE)


def finish(ledger: Ledger, claim: Claim, n: int) -> None:
    event = DoneEvent(seq=n + 1, finish_reason="stop", usage=Usage(), metrics=JobMetrics())
    ledger.finish(Finish(claim.job_id, claim.fence, "tiny", event, tuple(range(1, n + 1)), "text"))


async def collected(reader: LedgerReader, job_id: str, after_seq: int = 0) -> list[JobEvent]:
    return [event async for event in reader.events(job_id, after_seq)]


def seqs(events: list[JobEvent]) -> list[int]:
    return [event.seq for event in events if not isinstance(event, StateEvent)]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())
