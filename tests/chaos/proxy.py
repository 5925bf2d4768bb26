"""A TCP proxy in front of Redis that misbehaves on request: cuts, delays, goes deaf, turns away. It can speak TLS for a
server that does not.

It runs an event loop in a thread of its own; all its methods may be called from any other thread.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine
from typing import Any, Self

CHUNK_BYTES = 1 << 16


class Proxy:
    """Listens on loopback, on a free port if none is given, and passes everything on to `target_port`."""

    def __init__(self, target_port: int, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._target_port = target_port
        self._tls = tls
        self._serving: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self.delay_seconds = 0.0
        self.deaf = False  # what arrives is swallowed: both ends believe that the connection lives
        self.refuses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        # Not asyncio's server: whatever it has accepted just before its end, it forgets to close.
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop.call_soon_threadsafe(self._loop.add_reader, self._listener, self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def n_connections(self) -> int:
        return len(self._connections)

    def cut(self) -> None:
        """Every connection ends with a reset, as when a router forgets about it."""
        self._run(self._cut())

    def calm(self) -> None:
        """No more mischief. Connections that lost bytes while the proxy was deaf are cut: they are out of step."""
        was_deaf, self.deaf, self.refuses, self.delay_seconds = self.deaf, False, False, 0.0
        if was_deaf:
            self.cut()

    def close(self) -> None:
        """Returns when every connection has ended and its sockets are closed."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # gone again
            client, _ = self._listener.accept()
            task = self._loop.create_task(self._serve(client))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        reader = asyncio.StreamReader()
        with contextlib.suppress(OSError):  # its handshake failed
            transport, protocol = await self._loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader), client, ssl=self._tls
            )
            connection = _Connection(self, asyncio.StreamWriter(transport, protocol, reader, self._loop))
            self._connections.add(connection)
            try:
                if not self.refuses:
                    await connection.serve(reader, self._target_port)
            finally:
                self._connections.discard(connection)
                connection.reset()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _close(self) -> None:
        """Cancels nothing: a task that is cancelled before its first step closes no socket."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self.refuses = True
        await self._cut()
        await asyncio.gather(*self._serving)


class _Connection:
    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = [client]

    async def serve(self, reader: asyncio.StreamReader, target_port: int) -> None:
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target_port)
            self._writers.append(server_writer)
            ways = [
                asyncio.ensure_future(self._pump(reader, server_writer)),
                asyncio.ensure_future(self._pump(server_reader, self._writers[0])),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._proxy.deaf:
                    continue
                if self._proxy.delay_seconds:
                    await asyncio.sleep(self._proxy.delay_seconds)
                writer.write(data)
                await writer.drain()

    def reset(self) -> None:
        for writer in self._writers:
            transport = writer.transport
            sock = transport.get_extra_info("socket")
            if sock is not None and not transport.is_closing():
                with contextlib.suppress(OSError):  # closed by the other end in this very moment
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            transport.abort()
