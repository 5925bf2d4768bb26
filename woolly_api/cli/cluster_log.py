"""One stream for the lines of all programs of a cluster and for what is done with them: for people, or for machines."""

import json
import re
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import typer

from woolly_api.cli.common import Failure
from woolly_api.cli.progress import Progress

SHOWN_ON_FAILURE = 15
# A worker's log lines about loading: "loading ... percent=25 stage='compiling kernels'".
LOADING = re.compile(r"\bloading\b.*\bstage='?([^'=]+?)'?(?: \w+=|$)")
PERCENT = re.compile(r"\bpercent=(\d+)")

# Said at every start on most machines, over three lines of a terminal.
USUAL_WARNING = re.compile(r"WARNING .*overcommit")
# What Celery and Flower say of themselves at every start and end, and what our own lines say better. Flower asks a
# worker that is starting, or has just ended, and warns that it does not answer.
CHATTER = {
    "worker": re.compile(r"\[info +\].*\[celery\.(worker\.consumer\.connection|apps\.worker)\]|^worker: Warm|^$"),
    "flower": re.compile(r"\[\w .*\] (Connected to |Inspect method \w+ failed|\d+ detected, shutting down)"),
}


class ClusterOutput(Protocol):
    starting: bool  # what the worker says about loading is progress

    def line(self, name: str, line: str) -> None:
        """A line that a program wrote. From a thread per program."""

    def notice(self, text: str, level: str = "info") -> None:
        """What we did, or found."""

    def failure(self, text: str, name: str = "", lines: Sequence[str] = ()) -> Exception:
        """To be raised: why it does not go on, and the last lines of whoever is to blame."""


class ClusterLog:
    """For people: to standard error with the program's name in front, or quietly into a file."""

    def __init__(self, progress: Progress, path: Path | None = None) -> None:
        self._progress = progress
        self.starting = True
        self._lock = threading.Lock()
        self._file: IO[str] | None = None if path is None else path.open("a", encoding="utf-8")

    def line(self, name: str, line: str) -> None:
        if _is_usual(name, line) or (name in CHATTER and CHATTER[name].search(line)):
            return
        with self._lock:
            if self.starting and self._file is not None and name == "worker" and (stage := LOADING.search(line)):
                share = PERCENT.search(line)
                self._progress.update(stage[1] + (f" {share[1]} %" if share else " ..."), topic=stage[1])
            text = f"{name:<7}| {line}"
            if self._file is None:
                self._progress.line(text)
            elif not self._file.closed:
                self._file.write(text + "\n")
                self._file.flush()

    def notice(self, text: str, level: str = "info") -> None:
        self._progress.line(f"woolly: {text}")

    def failure(self, text: str, name: str = "", lines: Sequence[str] = ()) -> Exception:
        self._progress.done()
        if self._file is not None:  # else they were shown as they came
            for line in lines[-SHOWN_ON_FAILURE:]:
                print(f"{name:<7}| {line}", file=sys.stderr)
        return Failure(text)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()


class JsonClusterLog:
    """For machines: every line of standard error is a JSON object with a `program`. What a program wrote as JSON keeps
    its fields, and whatever else it wrote is an `event`. Our own lines are those of the program "woolly"."""

    def __init__(self) -> None:
        self.starting = True
        self._lock = threading.Lock()

    def line(self, name: str, line: str) -> None:
        if not line.strip() or _is_usual(name, line):
            return
        self._write(name, _object_of(line) or {"event": line, "timestamp": _now()})

    def notice(self, text: str, level: str = "info") -> None:
        self._write("woolly", {"event": text, "level": level, "timestamp": _now()})

    def failure(self, text: str, name: str = "", lines: Sequence[str] = ()) -> Exception:
        self.notice(text, "error")  # the lines have been written as they came
        return typer.Exit(1)

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        with self._lock:
            print(json.dumps({"program": name} | fields | {"program": name}), file=sys.stderr, flush=True)


def _object_of(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_usual(name: str, line: str) -> bool:
    return name == "server" and USUAL_WARNING.search(line) is not None


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
