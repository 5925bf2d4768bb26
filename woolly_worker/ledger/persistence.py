"""What an acknowledged write survives: which append-only policy the server runs, and what a crash of it may cost."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis

from woolly_worker.ledger.connection import translated_errors

UNKNOWN = "unknown"

# Of the append-only file. Without fsync the kernel writes when it likes: within 30 s, by Linux's defaults.
_MAY_LOSE = {"always": "nothing", "everysec": "the last second", "no": "the last half minute"}


@dataclass(frozen=True, slots=True)
class Persistence:
    """`appendonly` and `appendfsync` are Redis's own words, or "unknown" with the reason in `why`."""

    appendonly: str
    appendfsync: str
    may_lose: str  # when the server or its machine stops at once
    why: str | None = None

    @property
    def keeps_jobs(self) -> bool:
        """False only for a server that says it keeps no append-only file."""
        return self.appendonly != "no"

    def fields(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_persistence(client: redis.Redis) -> Persistence:
    """Asks the server, as far as it may be asked: an ACL or a provider may forbid CONFIG, and even INFO."""
    info, no_info = _asked("INFO", lambda: client.info("persistence"))
    fsync, no_config = _asked("CONFIG GET", lambda: client.config_get("appendfsync"))
    save, _ = _asked("CONFIG GET", lambda: client.config_get("save"))
    return policy_of(info.get("aof_enabled"), fsync.get("appendfsync"), save.get("save"), no_info or no_config)


def policy_of(aof_enabled: int | None, appendfsync: str | None, save: str | None, why: str | None) -> Persistence:
    """None stands for what the server did not tell."""
    if aof_enabled is None:
        return Persistence(UNKNOWN, appendfsync or UNKNOWN, UNKNOWN, why)
    if aof_enabled:
        return Persistence("yes", appendfsync or UNKNOWN, _MAY_LOSE.get(appendfsync or "", UNKNOWN), why)
    # Without an append-only file its policy says nothing.
    lost = "everything" if save == "" else "everything since the last save"
    return Persistence("no", appendfsync or UNKNOWN, lost, why)


def _asked(command: str, ask: Callable[[], Any]) -> tuple[Mapping[str, Any], str | None]:
    """The answer, or nothing and why. Raises LedgerUnavailable."""
    with translated_errors():
        try:
            answer: Mapping[str, Any] = ask()
        except redis.exceptions.NoPermissionError:
            return {}, f"the server does not permit {command}"
        except redis.exceptions.ResponseError as error:
            if "unknown command" in str(error).lower():
                return {}, f"the server has no {command}"
            raise
    return answer, None
