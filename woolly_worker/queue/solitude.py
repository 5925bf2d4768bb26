"""Solitude: while a job on probation is worked on, nothing of any other job is, from its claim to its tokens.

Jobs that nobody suspects are *company*: each is so from its claim until the engine has it; from there on the engine
pauses it. One job at a time is alone. Whoever wants to claim a suspect waits until the company has left, and new
company waits for them, so that neither starves. Who is guilty is decided by the ledger, from what it was told.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

LOOK_SECONDS = 0.1  # between looks at whether to stop waiting

ClaimKey = tuple[str, int]  # job id, fence
NOBODY: ClaimKey = ("", 0)  # is alone: the suspect is still to be claimed


class Isolating(Protocol):
    """The engine, as far as it is needed here."""

    def isolate(self, job_id: str, fence: int) -> threading.Event: ...
    def rejoin(self, job_id: str, fence: int) -> None: ...


class Solitude:
    def __init__(self, *, company_seconds: float) -> None:
        """Company that has not reached the engine within `company_seconds` hangs, and is not waited for: its lease is
        over, and without this one stuck prompt would stop its worker."""
        self._company_seconds = company_seconds
        self._changed = threading.Condition()
        self._company: dict[object, float] = {}  # since when
        self._n_seekers = 0
        self._alone: object | None = None  # the block that is
        self._key = NOBODY  # of the claim that it is for
        self._cancelled = False
        self._engine: Isolating | None = None

    @contextmanager
    def company(self, stop: Callable[[], bool]) -> Iterator[bool]:
        """Gives True once nobody is alone or wants to be, and that stays so; or False when `stop()` came first."""
        token = object()
        with self._changed:
            free = self._wait(lambda: self._alone is None and not self._n_seekers, stop)
            if free:
                self._company[token] = time.monotonic()
        try:
            yield free
        finally:
            with self._changed:
                self._company.pop(token, None)
                self._changed.notify_all()

    @contextmanager
    def alone(self, engine: Isolating, stop: Callable[[], bool]) -> Iterator[bool]:
        """Gives True once nothing is computed or prepared any more, and that stays so until the block ends, or the job
        that it has admitted leaves; or False when `stop()` came first."""
        token = object()
        try:
            yield self._enter(token, engine, stop)
        finally:
            with self._changed:
                if self._alone is token:
                    self._end()

    def admit(self, key: ClaimKey) -> None:
        """Who is alone: nothing else is computed. In the block, before the engine gets it."""
        with self._changed:
            assert self._engine is not None, "the block is alone"
            self._key = key
            self._engine.isolate(*key)

    def leave(self, key: ClaimKey) -> None:
        """The others go on, if it is this one that is alone. From any thread, as often as you like."""
        with self._changed:
            if self._key == key:
                self._end()

    def cancel(self, key: ClaimKey) -> None:
        """The end of this job was asked for, and the engine may not know it yet."""
        with self._changed:
            self._cancelled = self._cancelled or self._key == key

    def is_cancelled(self, key: ClaimKey) -> bool:
        with self._changed:
            return self._cancelled and self._key == key

    def _enter(self, token: object, engine: Isolating, stop: Callable[[], bool]) -> bool:
        with self._changed:
            self._n_seekers += 1
            try:
                if not self._wait(lambda: self._alone is None and not self._has_company(), stop):
                    return False
                self._alone, self._engine = token, engine
            finally:
                self._n_seekers -= 1
                self._changed.notify_all()
        isolated = engine.isolate(*NOBODY)
        while not stop():
            if isolated.wait(LOOK_SECONDS):
                return True
        return False

    def _end(self) -> None:
        """With the lock."""
        assert self._engine is not None
        self._engine.rejoin(*self._key)
        self._alone = self._engine = None
        self._key, self._cancelled = NOBODY, False
        self._changed.notify_all()

    def _has_company(self) -> bool:
        since = time.monotonic() - self._company_seconds
        return any(entered > since for entered in self._company.values())

    def _wait(self, free: Callable[[], bool], stop: Callable[[], bool]) -> bool:
        while not free():
            if stop():
                return False
            self._changed.wait(LOOK_SECONDS)
        return True
