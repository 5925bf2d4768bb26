"""Clients that do not read: they cost a bounded memory, they are let go, and nobody else notices."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
from cluster import Process
from harness import running_api, wait_for
from scripted_worker import LEASE_SECONDS, MODEL
from uvicorn import Config
from uvicorn.server import ServerState

from woolly_api.client import WoollyClient
from woolly_api.connection import Connection
from woolly_worker.contract.events import DoneEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, Usage
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, Emission, Finish, Reply

RECEIVE_BUFFER_BYTES = 2048
TEXT = 5000 * "x"


@contextmanager
def deaf(url: str, job_id: str) -> Iterator[socket.socket]:
    """Asks for the events of a job and leaves them."""
    address = httpx.URL(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        client.connect((address.host, address.port))
        client.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {address.host}\r\n\r\n".encode())
        yield client


def claimed(ledger: Ledger) -> Claim:
    ledger.submit(JobRequest(model=MODEL, prompt="x"), job_id="j")
    claim = ledger.claim("j", "w", lease_seconds=LEASE_SECONDS)
    assert isinstance(claim, Claim)
    return claim


def emit(ledger: Ledger, claim: Claim, first: int, n: int) -> None:
    """The engine's side, which hears "ok" whatever readers do."""
    for start in range(first, first + n, 50):
        tokens = [TokenEvent(seq=seq, token_id=1, text=TEXT) for seq in range(start, start + 50)]
        replies = ledger.emit([Emission("j", claim.fence, token) for token in tokens], lease_seconds=LEASE_SECONDS)
        assert set(replies) == {Reply.OK}


def finish(ledger: Ledger, claim: Claim, n: int) -> None:
    done = DoneEvent(seq=n + 1, finish_reason="length", usage=Usage(), metrics=JobMetrics())
    ledger.finish(Finish("j", claim.fence, MODEL, done, (1,) * n, "x"))


def rss_bytes(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def test_what_twenty_leave_unread_is_kept_by_nobody(redis_url: str) -> None:
    """Fifty megabytes of events, which the one who reads gets whole."""
    n, n_deaf = 10_000, 20
    with closing(connect(redis_url)) as redis, ExitStack() as ending:
        ledger = Ledger(redis)
        claim = claimed(ledger)
        api = Process("api", "--port", "0", WOOLLY_REDIS_URL=redis_url, WOOLLY_API_REAPER="false")
        ending.callback(api.stop)
        url = api.wait_for_line(r"(http://127\.0\.0\.1:\d+)")[1]
        for _ in range(n_deaf):
            ending.enter_context(deaf(url, "j"))
        wait_for(lambda: f"woolly_api_streams_open {n_deaf}.0" in httpx.get(f"{url}/metrics").text)
        before = rss_bytes(api.pid)
        most_unread = 0
        with WoollyClient(url) as client:
            events = client.events("j")
            assert isinstance(next(events), StateEvent)
            for first in range(1, n, 1000):
                emit(ledger, claim, first, 1000)
                subscribers = redis.client_list(_type="pubsub")
                assert len(subscribers) <= 1  # none while it connects again: it had been too slow
                most_unread = max(most_unread, *(int(subscriber["omem"]) for subscriber in subscribers), 0)
            finish(ledger, claim, n)
            heard = [event.seq for event in events if isinstance(event, TokenEvent | DoneEvent)]
        assert heard == list(range(1, n + 2))
        assert rss_bytes(api.pid) - before < n_deaf * n * len(TEXT) / 10  # of what they have left, together
        assert most_unread < 10_000_000  # the server's limit, see SUBSCRIBER_BUFFER


def test_who_takes_nothing_is_let_go_and_may_resume(redis_url: str) -> None:
    with (
        closing(connect(redis_url)) as redis,
        running_api(redis_url, deaf_client_seconds=0.3) as api,
        httpx.Client(base_url=api.url, timeout=20) as http,
    ):
        ledger = Ledger(redis)
        claim = claimed(ledger)
        with deaf(api.url, "j") as client:
            wait_for(lambda: api.metric("woolly_api_streams_open") == 1)
            emit(ledger, claim, 1, 4000)  # more than any kernel's buffers hold
            wait_for(lambda: api.metric("woolly_api_streams_open") == 0)
            client.settimeout(20)
            received = b""
            with suppress(ConnectionResetError):
                while part := client.recv(1 << 20):
                    received += part
        assert redis.client_list(_type="pubsub") == []
        assert not ledger.view("j").cancel_requested
        finish(ledger, claim, 4000)
        whole = [seq.encode() for seq in map(str, range(1, 4002))]
        seen = re.findall(rb"^id: (\d+)$", received[: received.rindex(b"\n\n")], re.MULTILINE)
        assert seen == whole[: len(seen)] != whole
        rest = http.get("/v1/jobs/j/events", headers={"Last-Event-ID": str(len(seen))}).content
        assert re.findall(rb"^id: (\d+)$", rest, re.MULTILINE) == whole[len(seen) :]


class Transport(asyncio.Transport):
    """Tells how much is left in its buffer, by a script."""

    def __init__(self, *left: int) -> None:
        super().__init__()
        self.left = list(left)
        self.over = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.left.pop(0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def abort(self) -> None:
        self.over.set()


def test_who_takes_little_is_not_let_go() -> None:
    async def scenario() -> None:
        async def app(scope: object, receive: object, send: object) -> None: ...

        config = Config(app, log_config=None)
        config.load()
        connection = Connection(config=config, server_state=ServerState(), app_state={}, deaf_seconds=0.01)
        connection.connection_made(transport := Transport(500, 499, 300, 300, 299, 100, 100))
        for n_more in (4, 0):
            connection.pause_writing()
            async with asyncio.timeout(20):
                while len(transport.left) > n_more:
                    await asyncio.sleep(0)
            if n_more:
                connection.resume_writing()  # it has taken all of it, at last
                await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            await transport.over.wait()

    asyncio.run(scenario())
