"""Two version numbers, and what happens when old and new programs meet at one Redis.

LEDGER_VERSION is that of the keys and of the scripts' idea of them, and stands under `woolly:ledger_version`. The first
program of all writes it there. From then on:

- equal: everybody works.
- newer than ours: we refuse. A worker ends at its start, and drains if the number rises while it runs; the API answers
  503 to what would write, and says so in /readyz. Nothing is written that the newer program would have to understand.
- older than ours: the first newer program migrates and raises the number, if MIGRATIONS knows the way from there;
  otherwise it refuses, with both numbers. There is only version 1 so far, and so no way from anywhere.
- no number: we are the first, or what is there is of version 1.

RECORD_VERSION is that of a job's request, and stands in its record. It rises with every field that JobRequest gets,
because a program that does not know a field refuses it. During a rolling upgrade a worker so meets requests that are
newer than itself. It leaves them to others: they step out of their lane, the reaper puts them back after a second, and
sooner or later a newer worker is there to take them. So upgrade workers first, and nobody waits.
"""

from collections.abc import Callable

import redis
import redis.asyncio

from woolly_worker.contract.errors import LedgerVersionMismatch
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import translated_errors

LEDGER_VERSION = 1
RECORD_VERSION = keys.RECORD_VERSION

# The version it starts from -> what makes the next one of it. Each may be repeated: two programs may start at once.
MIGRATIONS: dict[int, Callable[[redis.Redis], None]] = {}


def agree(client: redis.Redis) -> None:
    """At the start of whoever writes. Raises LedgerVersionMismatch when this program must not work here."""
    with translated_errors():
        client.set(keys.LEDGER_VERSION, LEDGER_VERSION, nx=True)
        found = _number(client.get(keys.LEDGER_VERSION))
        while found is not None and found < LEDGER_VERSION and found in MIGRATIONS:
            MIGRATIONS[found](client)
            found += 1
            client.set(keys.LEDGER_VERSION, found)
    check(found)


def check_now(client: redis.Redis) -> None:
    """Whether the agreement still holds. An emptied server has no number, and nothing that could be misread."""
    with translated_errors():
        text = client.get(keys.LEDGER_VERSION)
    check(LEDGER_VERSION if text is None else _number(text))


async def check_now_async(client: redis.asyncio.Redis) -> None:
    with translated_errors():
        text = await client.get(keys.LEDGER_VERSION)
    check(LEDGER_VERSION if text is None else _number(text))


def check(found: int | None) -> None:
    """`found` None: what is there is no number."""
    if found != LEDGER_VERSION:
        older = found is not None and found < LEDGER_VERSION
        raise LedgerVersionMismatch(
            f"the ledger in this Redis has version {'unknown' if found is None else found}, this program works with "
            f"version {LEDGER_VERSION}: "
            + ("it knows no way to migrate it" if older else "use a program that is as new as the ledger"),
            retry_after_seconds=30.0,
        )


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else None
