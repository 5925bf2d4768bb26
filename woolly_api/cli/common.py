"""What the commands share: how they speak to a person, and what a failure is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from woolly_api.client import WoollyClient

CLUSTER_PANEL = "A cluster"
JOBS_PANEL = "Jobs (through a running API)"
ALONE_PANEL = "Without a queue"


class Failure(Exception):
    """An expected failure, told in one line. 1: it did not work out; 2: the caller can fix it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(text: str) -> None:
    """One line for a person. Standard output is for results alone."""
    print(f"woolly: {text}", file=sys.stderr, flush=True)


@contextmanager
def connected(url: str) -> Iterator["WoollyClient"]:
    """A client of the API there. What the API cannot do now is told with the time after which it may."""
    # httpx imports a command line of its own if it can, and with it click, Pygments and rich: more than half of its
    # time. None is Python's word for a module that is not to be imported.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from woolly_api.client import ApiUnavailable, WoollyClient
    from woolly_worker.contract.errors import CapacityError

    with WoollyClient(url) as client:
        try:
            yield client
        except ApiUnavailable:
            raise
        except CapacityError as error:
            raise Failure(f"{error.message}; try again in {error.retry_after_seconds:.0f} s") from error


def printable(text: str) -> str:
    """Text from a file or a server, safe for a terminal: no control characters."""
    return "".join(character if character.isprintable() else "�" for character in text)


def human_bytes(n_bytes: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def age(seconds: float) -> str:
    """90 -> '2 min'."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:,.1f}"


def seconds_or_ms(seconds: float | None) -> str:
    """0.25 -> '250 ms'."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def read_prompt(prompt: str) -> str:
    """The prompt of the command line, or with - that of standard input. Raises Failure if it is none."""
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
    except UnicodeDecodeError as error:
        raise Failure("the prompt is not valid UTF-8", 2) from error
    if not text:
        raise Failure("the prompt is empty", 2)
    check_text(text, "the prompt")
    return text


def check_text(text: str, what: str) -> None:
    """Python hands on bytes that are not UTF-8 as lone surrogates, which no model and no JSON takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Failure(f"{what} is not valid UTF-8", 2) from error


def messages_of(prompt: str, system: str | None) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system is not None else []
    return [*head, {"role": "user", "content": prompt}]


def check_chat_options(chat: bool, system: str | None) -> None:
    if system is not None and not chat:
        raise Failure("--system needs --chat", 2)
    check_text(system or "", "the system message")
