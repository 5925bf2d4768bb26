"""What others left under our names, and what is damaged: read past, told once each, and counted.

A heartbeat that is no JSON must not take down the page that lists all workers, nor may it vanish unseen.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from woolly_worker.ledger import keys
from woolly_worker.ledger.store import Store

T = TypeVar("T")

log = logging.getLogger("woolly.ledger")

REMEMBERED = 1000  # names told already; then some are told again
SHOWN_CHARACTERS = 64


def printable(name: str) -> str:
    """A name that may be anything at all, for a log line."""
    shown = "".join(character if character.isprintable() else "?" for character in name[:SHOWN_CHARACTERS])
    return shown if len(name) <= SHOWN_CHARACTERS else f"{shown}... ({len(name)} characters)"


class ForeignEntries:
    """One per process; safe to share between threads."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def tell(self, kind: str, name: str, problem: str) -> None:
        """`problem` never quotes the entry."""
        with self._lock:
            self.counts[kind] += 1
            known = self._told.get((kind, name)) == problem
            if not known:
                if len(self._told) >= REMEMBERED:
                    self._told.clear()
                self._told[kind, name] = problem
        if not known:
            log.error("foreign entry ignored: kind=%s name=%s problem=%s", kind, printable(name), problem)


foreign = ForeignEntries()


def readable(kind: str, entries: Iterable[tuple[str, str | None]], parse: Callable[[str], T]) -> Iterator[T]:
    """What `parse` makes of each text that is there; one that it refuses is told by name and left out."""
    for name, text in entries:
        if text is None:
            continue
        try:
            yield parse(text)
        except (ValueError, TypeError, LookupError, RecursionError) as error:  # pydantic's is a ValueError
            foreign.tell(kind, name, f"{type(error).__name__} while reading it")


def set_aside(store: Store) -> None:
    """Renames whatever stands under one of our names and has another type than ours, so that every call that needs
    the name works again. It is kept for a day, for whoever misses it."""
    expected = keys.types(store.models())
    args: list[str | int] = [keys.ASIDE, keys.ASIDE_SECONDS, *expected.values()]
    for name, kind, wanted in store.call("set_aside", list(expected), args):
        foreign.tell("key", name, f"it was a {kind} and not a {wanted}: set aside as {keys.ASIDE}{name}")
