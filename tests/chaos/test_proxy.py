"""The proxy itself: it passes everything on, and its end leaves nothing behind."""

import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from chaos.proxy import Proxy
from redis_servers import certificate, tls_proxy

from woolly_worker.ledger.server import free_port


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def end_of(client: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


def test_both_ways_over_tls_until_its_end(target: socket.socket, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(cert))
    context.load_cert_chain(cert, key)
    port = free_port()
    with ExitStack() as sockets:
        with tls_proxy(port, port_of(target), cert, key) as proxy:
            plain = sockets.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            client = sockets.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            behind = sockets.enter_context(target.accept()[0])
            client.sendall(b"ask")
            assert behind.recv(3) == b"ask"
            behind.sendall(b"answer")
            assert client.recv(6) == b"answer"
            assert proxy.n_connections == 1
        assert proxy.n_connections == 0
        assert end_of(client)
        assert end_of(behind)
    gc.collect()  # tells of every socket that nobody has closed


def test_its_end_while_others_are_at_the_door(target: socket.socket) -> None:
    proxy, at_the_door = Proxy(port_of(target)), threading.Event()
    with ExitStack() as sockets:

        def knock() -> None:
            with suppress(OSError):  # nobody is there any more
                while True:
                    sockets.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 10))
                    at_the_door.set()

        knocking = threading.Thread(target=knock)
        knocking.start()
        assert at_the_door.wait(10)
        proxy.close()
        knocking.join(10)
        assert not knocking.is_alive()
    gc.collect()
