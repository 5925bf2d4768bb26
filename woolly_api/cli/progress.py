"""Telling a person what takes so long: one moving line on a terminal, plain lines elsewhere. On standard error only."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.status import Status

# Without a terminal: nothing about what is over at once, and lines about the same thing no faster than this.
PLAIN_AFTER_SECONDS = 5.0
PLAIN_EVERY_SECONDS = 5.0


class Progress:
    """A context manager. `update()` replaces what is shown, `line()` prints something that stays, `done()` clears.
    `quiet`: updates show nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console  # here, because every command loads this file

        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._started_at = time.monotonic()
        self._plain_topic = ""
        self._plain_at = 0.0

    def update(self, text: str, *, topic: str | None = None) -> None:
        """`topic` is the part of the text that stays the same while numbers in it move."""
        if self._quiet:
            return
        if self._console.is_terminal:
            from rich.text import Text

            if self._status is None:
                self._status = self._console.status(Text(text))
                self._status.start()
            else:
                self._status.update(Text(text))
            return
        topic, now = topic or text, time.monotonic()
        if now - self._started_at < PLAIN_AFTER_SECONDS:
            return
        if topic != self._plain_topic or now - self._plain_at >= PLAIN_EVERY_SECONDS:
            self._plain_topic, self._plain_at = topic, now
            self.line(f"woolly: {text}")

    def line(self, text: str) -> None:
        if self._status is not None:
            from rich.text import Text

            self._console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()
