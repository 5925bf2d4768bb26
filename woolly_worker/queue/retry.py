"""Waiting for Redis: the same call again until it answers, or until nobody wants it any more."""

import threading
from collections.abc import Callable
from typing import TypeVar

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.telemetry import log

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


class GivenUp(Exception):
    """The worker had to stop before it could serve the job. If it held it, the lease decides what happens to it."""


def until_answered(what: str, call: Callable[[], T], give_up: threading.Event) -> T:
    """`call()`, repeated while Redis is away; every call of the ledger may be. Raises GivenUp once `give_up` is set."""
    pause, told = FIRST_PAUSE_SECONDS, False
    while True:
        try:
            answer = call()
        except LedgerUnavailable as error:
            if not told:  # one line per absence, not one per attempt
                log.warning("waiting for redis", what=what, reason=error.message)
                told = True
            if give_up.wait(pause):
                raise GivenUp(what) from error
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            if told:
                log.info("redis answers again", what=what)
            return answer
