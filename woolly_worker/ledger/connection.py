"""Clients for Redis, the Lua scripts, and the one place that turns redis-py's errors into Woolly's.

redis-py's defaults (5 s per socket operation, ten retries) would hang a caller for a minute, so every client here
says how long it may take.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.commands.core import Script
from redis.retry import Retry

from woolly_worker.contract.errors import InternalError, LedgerUnavailable
from woolly_worker.ledger import keys
from woolly_worker.ledger.address import RedisAddress

SCRIPT_NAMES = (
    "submit",
    "claim",
    "emit",
    "finish",
    "close",
    "release",
    "cancel",
    "look",
    "absence",
    "turn",
    "next",
    "missing_bells",
    "place",
    "company",
    "orphan",
    "unfollowed",
    "condemn",
    "set_aside",
)
MINIMUM_SERVER_VERSION = (6, 2)

# Error codes that say how the server is just now, and nothing about the command: it may be sent again.
SERVER_STATES = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
)
# redis-py cuts the code off where it has a class for it.
_STATE_CLASSES = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
# Redis 6.2 writes `Error running script (call to f_...): @user_script: 7: -OOM command not allowed ...`.
_STATE_CODE = re.compile(rf"(?:^|: -)(?:{'|'.join(SERVER_STATES)})(?: |$)")


def is_server_state(error: redis.exceptions.RedisError) -> bool:
    """Whether the server refuses now what it may take later: a replica, a full disk, too few replicas."""
    return isinstance(error, _STATE_CLASSES) or _STATE_CODE.search(str(error)) is not None


def connect(url: str, *, timeout_seconds: float = 1.0) -> redis.Redis:
    """A client that fails within about two `timeout_seconds`: one attempt and one retry. ValueError for a wrong URL."""
    return RedisAddress.parse(url).client(
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(ConstantBackoff(0.05), 1),
    )


def connect_async(url: str, *, timeout_seconds: float = 5.0) -> redis.asyncio.Redis:
    """The API's client. `timeout_seconds` bounds one command; waiting for messages has its own limits."""
    return RedisAddress.parse(url).async_client(
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(timeout_seconds, 2.0),
        retry=redis.asyncio.retry.Retry(ConstantBackoff(0.05), 1),
    )


@cache
def script_text(name: str) -> str:
    folder = files("woolly_worker.ledger") / "scripts"
    constants = f"local RECORD_VERSION = {keys.RECORD_VERSION}\n"
    return constants + (folder / "shared.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()


def load_scripts(client: redis.Redis) -> dict[str, Script]:
    """EVALSHA, and EVAL where the server does not know the script yet. Needs no connection."""
    return {name: client.register_script(script_text(name)) for name in SCRIPT_NAMES}


@contextmanager
def translated_errors() -> Iterator[None]:
    """No caller of the ledger sees an exception of redis-py."""
    try:
        yield
    except redis.exceptions.ResponseError as error:
        if isinstance(error, redis.exceptions.ReadOnlyError | redis.exceptions.OutOfMemoryError):
            raise LedgerUnavailable(f"Redis refuses writes: {error}") from error
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise LedgerUnavailable(
                f"this user of Redis may not do that (see deploy/redis/woolly.acl): {error}"
            ) from error
        if is_server_state(error):
            raise LedgerUnavailable(f"Redis cannot serve now: {error}") from error
        raise InternalError(f"a ledger script failed: {error}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        raise LedgerUnavailable(f"Redis does not answer: {error}") from error


def check_server(client: redis.Redis) -> str:
    """Its version as text. Raises LedgerUnavailable with both versions when it is too old for the scripts."""
    with translated_errors():
        info: dict[str, Any] = client.info("server")
    version = str(info.get("redis_version", "0.0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_SERVER_VERSION:
        wanted = ".".join(map(str, MINIMUM_SERVER_VERSION))
        raise LedgerUnavailable(f"the server speaks Redis {version}, Woolly needs {wanted} or newer")
    return str(info.get("valkey_version", version))
