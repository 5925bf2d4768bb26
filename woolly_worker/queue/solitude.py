"""Solitude: while a job on probation is worked on, nothing of any other job is, from its prompt to its tokens.

Jobs that nobody suspects are *company*: each is so from its claim until the engine has it, and from there on the engine
pauses it. One job at a time is alone. Whoever wants to be alone waits until the company has left, and new company waits
for them, so that neither starves. Who is guilty is not decided here: the ledger does, by what it was told in time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from woolly_worker.contract.errors import DeadlineExceeded, JobCancelled

LOOK_SECONDS = 0.1  # between looks at whether to stop waiting

ClaimKey = tuple[str, int]  # job id, fence


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
        self._seekers: set[ClaimKey] = set()
        self._cancelled: set[ClaimKey] = set()
        self._alone: ClaimKey | None = None
        self._engine: Isolating | None = None

    @contextmanager
    def company(self, stop: Callable[[], bool]) -> Iterator[bool]:
        """Gives True once nobody is alone or wants to be, and that stays so; or False when `stop()` came first."""
        token = object()
        with self._changed:
            free = self._wait(lambda: self._alone is None and not self._seekers, stop)
            if free:
                self._company[token] = time.monotonic()
        try:
            yield free
        finally:
            with self._changed:
                self._company.pop(token, None)
                self._changed.notify_all()

    def enter(
        self, key: ClaimKey, engine: Isolating, stop: Callable[[], bool], *, deadline_seconds: float | None = None
    ) -> bool:
        """Whether this job is alone now: until `leave`, nothing else is computed or prepared. False if `stop()` came
        first. Raises JobCancelled or DeadlineExceeded if that happened to it. Call `leave` in any case."""
        deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds

        def over() -> bool:
            if key in self._cancelled:
                raise JobCancelled("the job was cancelled")
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(f"the deadline, {deadline_seconds:.3f} s from here, has passed")
            return stop()

        with self._changed:
            self._seekers.add(key)
            try:
                if not self._wait(lambda: self._alone is None and not self._has_company(), over):
                    return False
                self._alone, self._engine = key, engine
            finally:
                self._seekers.discard(key)
                if self._alone != key:
                    self._cancelled.discard(key)
                self._changed.notify_all()
        isolated = engine.isolate(*key)
        while not isolated.wait(LOOK_SECONDS):
            if over():
                return False
        return True

    def leave(self, key: ClaimKey) -> None:
        """The others go on. From any thread, as often as you like."""
        with self._changed:
            if self._alone != key or self._engine is None:
                return
            self._engine.rejoin(*key)
            self._alone = self._engine = None
            self._cancelled.discard(key)
            self._changed.notify_all()

    def cancel(self, key: ClaimKey) -> None:
        """The end of this job was asked for, and the engine may not know it yet."""
        with self._changed:
            if key in self._seekers or key == self._alone:
                self._cancelled.add(key)
                self._changed.notify_all()

    def is_cancelled(self, key: ClaimKey) -> bool:
        return key in self._cancelled

    def _has_company(self) -> bool:
        since = time.monotonic() - self._company_seconds
        return any(entered > since for entered in self._company.values())

    def _wait(self, free: Callable[[], bool], stop: Callable[[], bool]) -> bool:
        while not free():
            if stop():
                return False
            self._changed.wait(LOOK_SECONDS)
        return True
