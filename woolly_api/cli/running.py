"""A cluster of child processes for the time of a `with` block: start, signals, log lines, and an orderly end."""

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

import typer

from woolly_api.cli.common import Failure, say
from woolly_api.cli.progress import Progress
from woolly_api.programs import Cluster
from woolly_api.supervisor import ChildFailed, Interrupted, Supervisor

SHOWN_ON_FAILURE = 15
# A worker's log lines about loading: "loading ... percent=25 stage='compiling kernels'".
LOADING = re.compile(r"\bloading\b.*\bstage='?([^'=]+?)'?(?: \w+=|$)")
PERCENT = re.compile(r"\bpercent=(\d+)")

# Said at every start on most machines, over three lines of a terminal.
USUAL_WARNING = re.compile(r"WARNING .*overcommit")


class ClusterLog:
    """Where the children's lines go: to standard error with the child's name in front, or quietly into a file."""

    def __init__(self, progress: Progress, path: Path | None = None) -> None:
        self._progress = progress
        self.starting = True  # what the worker says about loading is progress
        self._lock = threading.Lock()
        self._file: IO[str] | None = None if path is None else path.open("a", encoding="utf-8")

    def line(self, name: str, line: str) -> None:
        if name == "server" and USUAL_WARNING.search(line):
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

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()


@contextlib.contextmanager
def running(cluster: Cluster, log: ClusterLog, progress: Progress) -> Iterator[Supervisor]:
    """The supervisor of a cluster that is ready. SIGINT, SIGTERM and SIGHUP ask it to stop; a second one hurries.

    Raises Failure, with the last lines of whoever failed, when the cluster does not come up.
    """
    supervisor = Supervisor(log.line, lambda text: progress.line(f"woolly: {text}"))
    with _signals(supervisor):
        try:
            _start(cluster, supervisor, progress)
            log.starting = False
            yield supervisor
        except ChildFailed as failure:
            progress.done()
            for line in failure.lines[-SHOWN_ON_FAILURE:]:
                print(f"{failure.name:<7}| {line}", file=sys.stderr)
            raise Failure(str(failure)) from failure
        except Interrupted as interrupted:
            raise typer.Exit(130) from interrupted
        finally:
            progress.done()
            if supervisor.stop_requested:
                say("stopping: running jobs may finish first (Ctrl-C again stops at once)")
            supervisor.stop()


def _start(cluster: Cluster, supervisor: Supervisor, progress: Progress) -> None:
    server = cluster.server()
    if server is not None:
        progress.update("starting the server ...")
        supervisor.start(server)
    progress.update("starting the worker, the API and Flower ...")
    supervisor.start(*cluster.programs())
    progress.done()


@contextlib.contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        supervisor.request_stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
