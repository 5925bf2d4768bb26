"""Where Redis is: one URL for the ledger's clients, for Celery's broker and for Flower, which would each read it anew.

    redis://[USER:PASSWORD@]HOST[:6379][/DB]
    rediss://...                                                                        the same over TLS
    unix://[USER:PASSWORD@]/PATH[?db=0]                                                 a socket on this machine
    sentinel://[USER:PASSWORD@]HOST[:26379][,HOST[:26379]...]/MASTER[/DB]               the master that Sentinel names
    sentinels://...                                                                     TLS, to Sentinel and to Redis

Parameters, behind a `?`: with TLS `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (files), `ssl_cert_reqs` ("required",
"optional" or "none") and `ssl_check_hostname` ("true" or "false"); with Sentinel `sentinel_username` and
`sentinel_password`, for servers that ask for them there as well; with a socket `db`. Certificates are checked unless
the URL says otherwise: kombu on its own would check none. Unknown parameters are refused. No message here repeats the
URL, because it may hold a password.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379, "sentinels": 26379}
_SCHEMES = (*_PORTS, "unix")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Broker:
    """The same in Celery's words, as its settings `broker_url`, `broker_use_ssl` and `broker_transport_options`."""

    url: str
    use_ssl: dict[str, Any] | None
    transport_options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`hosts` are Sentinels where there is a `master`, else the one server; none where there is a socket."""

    hosts: tuple[tuple[str, int], ...]
    socket: str | None = None  # its path
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    master: str | None = None
    tls: Mapping[str, Any] | None = None  # redis-py's options; None: no TLS
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Raises ValueError, which names what is wrong with the URL and does not quote it."""
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"it has to begin with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        with_tls, with_sentinel = parts.scheme in ("rediss", "sentinels"), parts.scheme.startswith("sentinel")
        known = [*(_TLS if with_tls else ()), *(_SENTINEL if with_sentinel else ())]
        if parts.scheme == "unix":
            known = ["db"]
        for name in options:
            if name not in known:
                raise ValueError(f"{parts.scheme}:// has no parameter {name!r}; it has {', '.join(known) or 'none'}")
        user, _, hosts = parts.netloc.rpartition("@")
        username, _, password = user.partition(":")
        login = unquote(username) or None, unquote(password) or None
        if parts.scheme == "unix":
            return cls((), _socket(hosts, parts.path), _database(options.get("db", "0")), *login)
        path = [unquote(part) for part in parts.path.split("/") if part]
        master = path.pop(0) if with_sentinel and path else None
        if with_sentinel and master is None:
            raise ValueError(f"{parts.scheme}:// needs the name of the master: {parts.scheme}://HOST/MASTER")
        if len(path) > 1:
            raise ValueError("only the number of a database may follow, behind one slash")
        found = tuple(_host(text, _PORTS[parts.scheme]) for text in hosts.split(","))
        if len(found) > 1 and not with_sentinel:
            raise ValueError(f"it names {len(found)} hosts, only sentinel:// takes more than one")
        return cls(
            found,
            None,
            _database(path[0]) if path else 0,
            *login,
            master=master,
            tls=_tls(options) if with_tls else None,
            sentinel_login={name.removeprefix("sentinel_"): options[name] for name in _SENTINEL if options.get(name)},
        )

    @property
    def shown(self) -> str:
        """For people and logs: without password and parameters."""
        user = f"{self.username or ''}:**@" if self.username or self.password else ""
        if self.socket is not None:
            return f"unix://{user}{quote(self.socket)}?db={self.db}"
        hosts = ",".join(_netloc(host, port) for host, port in self.hosts)
        scheme = ("redis" if self.master is None else "sentinel") + ("s" if self.tls is not None else "")
        return f"{scheme}://{user}{hosts}/{self.db if self.master is None else f'{self.master}/{self.db}'}"

    def client(self, **options: Any) -> redis.Redis:
        """`options` are redis-py's. Connects to nothing yet."""
        options = {**self._login(), **options, "db": self.db}
        if self.socket is not None:
            return redis.Redis(unix_socket_path=self.socket, **options)
        if self.master is None:
            ((host, port),) = self.hosts
            return redis.Redis(host=host, port=port, **options)
        sentinel: Any = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            list(self.hosts), sentinel_kwargs=self._sentinel_options(options), **options
        )
        client: redis.Redis = sentinel.master_for(self.master)
        return client

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        options = {**self._login(), **options, "db": self.db}
        if self.socket is not None:
            return redis.asyncio.Redis(unix_socket_path=self.socket, **options)
        if self.master is None:
            ((host, port),) = self.hosts
            return redis.asyncio.Redis(host=host, port=port, **options)
        sentinel: Any = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            list(self.hosts), sentinel_kwargs=self._sentinel_options(options), **options
        )
        client: redis.asyncio.Redis = sentinel.master_for(self.master)
        return client

    def broker(self) -> Broker:
        user = ""
        if self.username or self.password:
            user = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        if self.socket is not None:
            return Broker(f"redis+socket://{user}{self.socket}?virtual_host={self.db}", None, {})
        scheme = "sentinel" if self.master is not None else "redis" if self.tls is None else "rediss"
        url = ";".join(f"{scheme}://{user}{_netloc(host, port)}/{self.db}" for host, port in self.hosts)
        options: dict[str, Any] = {}
        if self.master is not None:
            options = {"master_name": self.master, "sentinel_kwargs": self._sentinel_options(_QUICKLY)}
        return Broker(url, None if self.tls is None else dict(self.tls), options)

    def _login(self) -> dict[str, Any]:
        tls = {} if self.tls is None else {"ssl": True, **self.tls}
        return {"username": self.username, "password": self.password, **tls}

    def _sentinel_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A Sentinel that does not answer is not waited for longer than the server would be."""
        waits = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
        tls = {} if self.tls is None else {"ssl": True, **self.tls}
        return {**waits, **tls, **self.sentinel_login}


_QUICKLY = {"socket_timeout": 2, "socket_connect_timeout": 2}


def _socket(host: str, path: str) -> str:
    if host or not path.startswith("/"):
        raise ValueError("unix:// needs a path that begins with a slash: unix:///PATH")
    return unquote(path)


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("the database has to be a number")
    return int(text)


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts: SplitResult = urlsplit(f"//{text}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port is no number from 0 to 65535") from None
    return parts.hostname or "127.0.0.1", default_port if port is None else port


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    reqs, check = options.get("ssl_cert_reqs", "required"), options.get("ssl_check_hostname", "true")
    if reqs not in ("required", "optional", "none"):
        raise ValueError("ssl_cert_reqs has to be required, optional or none")
    if check not in ("true", "false"):
        raise ValueError("ssl_check_hostname has to be true or false")
    files = {name: options[name] for name in _FILES if options.get(name)}
    if ("ssl_keyfile" in files) != ("ssl_certfile" in files):
        raise ValueError("ssl_certfile and ssl_keyfile belong together: it has one of the two")
    return {**files, "ssl_cert_reqs": reqs, "ssl_check_hostname": check == "true" and reqs != "none"}
