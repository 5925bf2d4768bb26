"""A client's connection, and how long it may take nothing of what is sent to it.

What the kernel does not take at once holds up whoever writes: a client that does not read costs the kernel's buffer for
its socket and one write of ours, and no more of its stream is read from the ledger. Nothing else would ever end such a
connection, because a closed window is answered for ever (RFC 9293, 3.8.6.1).
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from woolly_api.telemetry import log


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # httptools, or h11
    """uvicorn's connection; asyncio tells it when the kernel takes no more, and when it has taken all."""

    transport: asyncio.Transport

    def __init__(self, *args: Any, deaf_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deaf_seconds = deaf_seconds
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        self._stop_looking()
        super().resume_writing()

    def _look_later(self) -> None:
        n_left = self.transport.get_write_buffer_size()
        self._look = asyncio.get_running_loop().call_later(self._deaf_seconds, self._let_go_unless_it_took, n_left)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _let_go_unless_it_took(self, n_before: int) -> None:
        n_left = self.transport.get_write_buffer_size()
        if n_left < n_before:
            self._look_later()
            return
        log.warning("client takes nothing, let go", seconds=self._deaf_seconds, bytes_left=n_left)
        self.transport.abort()
