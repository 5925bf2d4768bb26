"""Redis as it runs where it is protected: over TLS, with a user of limited rights, and under the eyes of Sentinel."""

import contextlib
import hashlib
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from chaos.proxy import Proxy

from woolly_worker.ledger.server import find_program, free_port

ACL = Path(__file__).parents[1] / "deploy" / "redis" / "woolly.acl"
PASSWORD = "of the test / with @ and :"
QUOTED_PASSWORD = "of%20the%20test%20%2F%20with%20%40%20and%20%3A"


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def launched(argv: list[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "output.log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False


def certificate(folder: Path) -> tuple[Path, Path]:
    """One that signs itself, for server and client; skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=woolly.test"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


class ProtectedServer:
    """TLS only, with certificates of both sides, and deploy/redis/woolly.acl as it is but for the password."""

    def __init__(self, folder: Path, tls_port: int) -> None:
        self.cert, self.key = certificate(folder)
        self.acl = folder / "users.acl"
        hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
        self.acl.write_text(ACL.read_text().replace(">change-me", f"#{hashed}") + "user admin on nopass ~* &* +@all\n")
        self.tls = f"ssl_ca_certs={self.cert}&ssl_certfile={self.cert}&ssl_keyfile={self.key}"
        self.location = f"127.0.0.1:{tls_port}/0"
        self.url = f"rediss://woolly:{QUOTED_PASSWORD}@{self.location}?{self.tls}"
        files = {"ssl_ca_certs": self.cert, "ssl_certfile": self.cert, "ssl_keyfile": self.key}
        self.admin = redis.Redis(
            host="127.0.0.1",
            port=tls_port,
            username="admin",
            password="any",
            ssl=True,
            decode_responses=True,
            **{name: str(path) for name, path in files.items()},  # type: ignore[arg-type]
        )

    def argv(self, program: Path, *ports: str) -> list[str]:
        common = ("--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--aclfile", str(self.acl))
        return [str(program), *ports, *common, "--dir", str(self.acl.parent)]

    def refused(self) -> list[str]:
        """What the user was not allowed to do."""
        return [f"{entry['reason']} {entry['object']} ({entry['context']})" for entry in self.admin.acl_log()]


@contextlib.contextmanager
def protected_server(folder: Path) -> Iterator[ProtectedServer]:
    """A server that speaks TLS itself where one is installed, else one behind a proxy that does."""
    port = free_port()
    server, program = ProtectedServer(folder, port), tls_program()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(server.admin))
        if program is not None:
            tls = ("--tls-cert-file", str(server.cert), "--tls-key-file", str(server.key))
            tls = (*tls, "--tls-ca-cert-file", str(server.cert), "--tls-auth-clients", "yes")
            argv = server.argv(program, "--port", "0", "--tls-port", str(port), *tls)
        else:
            plain = free_port()
            argv = server.argv(find_program().path, "--port", str(plain))
            stack.enter_context(tls_proxy(port, plain, server.cert, server.key))
        stack.enter_context(launched(argv, folder))
        wait_for(lambda: answers(server.admin))
        yield server


def tls_program() -> Path | None:
    """A server program that was built with TLS. Such a one asks for a certificate, the others for nothing."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            argv = [path, "--port", "0", "--tls-port", str(free_port())]
            ended = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
            if "tls-cert-file" in ended.stdout + ended.stderr:
                return Path(path)
    return None


def tls_proxy(port: int, plain_port: int, cert: Path, key: Path) -> Proxy:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(cert)
    context.verify_mode = ssl.CERT_REQUIRED
    return Proxy(plain_port, port=port, tls=context)


class Sentinels:
    """A master, a replica and three Sentinels that watch them: the fewest that can agree without one of them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        program, self._folder, self._stack = str(find_program().path), folder, stack
        self.master_port, self.replica_port = free_port(), free_port()
        self.master = self._server(program, "master", self.master_port)
        self._server(program, "replica", self.replica_port, "--replicaof", "127.0.0.1", str(self.master_port))
        # Sentinel asks a master for its replicas at once, and then every ten seconds.
        with contextlib.closing(redis.Redis(port=self.replica_port)) as replica:
            wait_for(lambda: answers(replica) and replica.info("replication")["master_link_status"] == "up")
        ports = [free_port() for _ in range(3)]
        for port in ports:
            self._sentinel(program, port)
        self.url = f"sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/the-master/0"
        self._clients = [redis.Redis(port=port, decode_responses=True) for port in ports]
        wait_for(lambda: all(answers(client) for client in self._clients))
        wait_for(lambda: all(self._watched(client) == ("1", "2") for client in self._clients))

    def _server(self, program: str, name: str, port: int, *more: str) -> "subprocess.Popen[bytes]":
        folder = self._folder / name
        folder.mkdir()
        common = ("--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0")
        argv = [program, "--port", str(port), *common, *more]
        return self._stack.enter_context(launched(argv, folder))

    def _sentinel(self, program: str, port: int) -> None:
        folder = self._folder / str(port)
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor the-master 127.0.0.1 {self.master_port} 2\n"
            "sentinel down-after-milliseconds the-master 1000\nsentinel failover-timeout the-master 4000\n"
        )
        self._stack.enter_context(launched([program, str(config), "--sentinel"], folder))

    @staticmethod
    def _watched(client: redis.Redis) -> tuple[str, str]:
        words = client.execute_command("SENTINEL", "MASTER", "the-master")
        found = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2], strict=True))
        return str(found["num-slaves"]), str(found["num-other-sentinels"])

    def close(self) -> None:
        for client in self._clients:
            client.close()
