"""SIGTERM of a worker, or of an API, in the middle of streams: every client gets its whole text, and no error."""

import contextlib
import itertools
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from cluster import Process
from harness import running_api
from scripted import eventually
from worker_processes import PROMPT, Workers

from woolly_api.client import WoollyClient
from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.ledger.server import EmbeddedServer, free_port

N_CLIENTS = 20
N_TOKENS = 100  # two seconds
REQUEST = JobRequest(
    model="tiny",
    prompt=PROMPT,
    sampling=SamplingParams(max_tokens=N_TOKENS, temperature=0.8, seed=11, ignore_eos=True),
)


class Reader(threading.Thread):
    """Hands a job in and follows it to its end."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.seqs, self.text = url, list[int](), ""
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with WoollyClient(self.url) as client:
                for event in client.events(client.submit(REQUEST).id):
                    if isinstance(event, TokenEvent | DoneEvent):
                        self.seqs.append(event.seq)
                        self.text += event.text
        except Exception as error:
            self.failure = error


def check(readers: list[Reader], text: str) -> None:
    for reader in readers:
        reader.join(60)
        assert reader.failure is None
        assert reader.seqs == list(range(1, N_TOKENS + 2))
        assert reader.text == text


def test_of_one_worker_and_then_the_other(server: EmbeddedServer, start_workers) -> None:
    workers: Workers = start_workers(3)  # the third is there already: a start takes longer than the streams
    text = workers.result(workers.submit(max_tokens=N_TOKENS)).text
    with running_api(server.url) as api:
        readers = [Reader(api.url) for _ in range(N_CLIENTS)]
        for reader in readers:
            reader.start()
        eventually(lambda: sum(len(reader.seqs) >= 5 for reader in readers) >= 8)
        first, second, _ = workers.processes
        assert workers.end(first) == 0
        assert any(reader.is_alive() for reader in readers)
        assert workers.end(second) == 0
        check(readers, text)
    counts = workers.ledger.lane_counts("tiny")
    assert (counts.succeeded, counts.failed, counts.queued, counts.running) == (N_CLIENTS + 1, 0, 0, 0)
    assert "jobs left to their leases" not in workers.log_text()


@contextmanager
def balancer(*ports: int) -> Iterator[str]:
    """What is in front of several APIs: each connection goes to the next one that takes it."""
    turns = itertools.cycle(ports)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as open_sockets:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    open_sockets.enter_context(client)
                    for port in itertools.islice(turns, len(ports)):
                        with contextlib.suppress(OSError):
                            backend = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
                            for pair in ((client, backend), (backend, client)):
                                threading.Thread(target=pump, args=pair, daemon=True).start()
                            break
                    else:
                        client.close()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)


def alive(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False


@pytest.mark.slow
def test_of_one_of_two_apis(server: EmbeddedServer, start_workers) -> None:
    workers: Workers = start_workers(1)
    text = workers.result(workers.submit(max_tokens=N_TOKENS)).text
    ports = (free_port(), free_port())
    apis = [Process("api", "--port", str(port), WOOLLY_REDIS_URL=server.url) for port in ports]
    try:
        eventually(lambda: all(map(alive, ports)), 30)
        with balancer(*ports) as url:
            readers = [Reader(url) for _ in range(8)]
            for reader in readers:
                reader.start()
            eventually(lambda: sum(len(reader.seqs) >= 5 for reader in readers) >= 4)
            apis[0].signal(signal.SIGTERM)
            check(readers, text)
            assert apis[0].wait() in (0, -signal.SIGTERM)
    finally:
        for api in apis:
            api.stop()
