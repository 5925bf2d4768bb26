"""Keeps a handful of programs running: starts them in order, restarts the ones that die, stops them in order.

Knows processes only: not what Redis, a worker or Flower is. Everything but the pumping of output happens in the thread
that calls it, which must be one that lives as long as the supervisor: on Linux a child is tied to the thread that
started it (see tether.py).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two questions whether a restarted one is ready: an answer may take its time
SERVED_SECONDS = 5.0  # ready for so long: it works, and whatever ends it now is no reason to wait before the next start
KEPT_LINES = 40


@dataclass(frozen=True, slots=True)
class Program:
    """One child: what to run, how to know that it is ready, and how to end it."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # added to our own environment
    # Given the pid; None: ready at once. Asked every 50 ms by start(), every second after a restart. Whatever it raises
    # says "not ready".
    ready: Callable[[int], bool] | None = None
    ready_seconds: float = 30.0
    stop_rank: int = 0  # the lowest is stopped first, and equals together
    stop_seconds: float = 10.0  # from SIGTERM to SIGKILL
    orphan_signal: signal.Signals = signal.SIGKILL  # what it gets when this process is killed


class ChildFailed(Exception):
    """A program ended, or did not become ready, while it was being started. `lines` are the last it wrote."""

    def __init__(self, name: str, message: str, lines: list[str]) -> None:
        super().__init__(f"{name} {message}")
        self.name = name
        self.lines = lines


class Interrupted(Exception):
    """A stop was asked for while programs were being started."""


class _Child:
    """A running (or dead, waiting for its restart) program."""

    def __init__(self, program: Program, on_line: Callable[[str, str], None], on_notice: Callable[[str], None]) -> None:
        self.program = program
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.backoff = FIRST_BACKOFF_SECONDS
        self.restart_at: float | None = None
        self._on_line = on_line
        self._on_notice = on_notice
        self.spawn()

    def spawn(self) -> None:
        program = self.program
        tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(int(program.orphan_signal))]
        self.process = subprocess.Popen(
            [*tether, *program.argv],
            env={**os.environ, **program.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C reaches us alone, and we stop the children in order.
            start_new_session=True,
        )
        self.started_at = time.monotonic()
        self.ready_at = self.started_at if program.ready is None else None
        self.look_at = self.started_at
        self.restart_at = None
        self._has_told = False
        self.pump = threading.Thread(target=self._pump, args=(self.process,), name=f"log-{program.name}", daemon=True)
        self.pump.start()

    def _pump(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                self.lines.append(line)
                self._on_line(self.program.name, line)

    def alive(self) -> bool:
        return self.process.poll() is None

    def look_ready(self) -> bool:
        """Whether it is, or has been, ready since it was started. Asks until it is."""
        if self.ready_at is None and self._answers():
            self.ready_at = time.monotonic()
        self.look_at = time.monotonic() + LOOK_SECONDS
        return self.ready_at is not None

    def _answers(self) -> bool:
        assert self.program.ready is not None, "then it was ready at once"
        try:
            return self.program.ready(self.process.pid)
        except Exception as error:  # of whatever protocol it speaks: one child's answer must not end the others
            if not self._has_told:
                self._has_told = True
                self._on_notice(f"{self.program.name}: cannot see whether it is ready ({type(error).__name__})")
            return False

    def has_served(self, now: float) -> bool:
        return self.ready_at is not None and now - self.ready_at >= SERVED_SECONDS

    def last_lines(self) -> list[str]:
        self.pump.join(timeout=1.0)  # what it wrote just before its end is still on its way
        return list(self.lines)


class Supervisor:
    """`on_line(name, line)` gets every line a child writes, from one thread per child; `on_notice(text)` what we do."""

    def __init__(self, on_line: Callable[[str, str], None], on_notice: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._on_notice = on_notice
        self._children: dict[str, _Child] = {}
        self._stop = threading.Event()
        self._hurry = threading.Event()

    def request_stop(self) -> None:
        """End start() and run() soon. May be called from a signal handler. Asked twice, stop() waits for nobody."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def pid(self, name: str) -> int:
        return self._children[name].process.pid

    def start(self, *programs: Program) -> None:
        """Start them at once and wait until all are ready. Raises ChildFailed, or Interrupted after request_stop()."""
        for program in programs:
            self._children[program.name] = _Child(program, self._on_line, self._on_notice)
        for program in programs:
            self._wait_ready(program, [self._children[other.name] for other in programs])

    def _wait_ready(self, program: Program, group: list[_Child]) -> None:
        """While waiting for one, any of the group may end: that is told at once, whoever it is."""
        awaited = self._children[program.name]
        deadline = awaited.started_at + program.ready_seconds
        while not awaited.look_ready():
            for child in group:
                if not child.alive() and child.program.ready is not None:
                    raise ChildFailed(child.program.name, _ending(child.process.returncode), child.last_lines())
            if time.monotonic() > deadline:
                message = f"was not ready after {program.ready_seconds:.0f} s"
                raise ChildFailed(program.name, message, awaited.last_lines())
            if self._stop.wait(0.05):
                raise Interrupted

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Watch the children until request_stop(), or until `until()` is true; restart whichever dies."""
        while not self._stop.is_set() and not until():
            self.check()
            self._stop.wait(0.1)

    def check(self) -> None:
        """One look at every child. A dead one is started again after a pause that doubles with every early death: one
        before it was ready, or right afterwards."""
        now = time.monotonic()
        for child in self._children.values():
            if child.alive():
                if child.ready_at is None and now >= child.look_at:
                    child.look_ready()
                continue
            if child.restart_at is None:
                if child.has_served(now):
                    child.backoff = FIRST_BACKOFF_SECONDS
                child.restart_at = now + child.backoff
                ending = _ending(child.process.returncode)
                self._on_notice(f"{child.program.name} {ending}; starting it again in {child.backoff:g} s")
                child.backoff = min(child.backoff * 2, MAX_BACKOFF_SECONDS)
            elif now >= child.restart_at:
                child.spawn()
                self._on_notice(f"{child.program.name} started again (pid {child.process.pid})")

    def stop(self) -> None:
        """End all children, rank by rank: SIGTERM, then SIGKILL for whoever takes longer than it may."""
        for rank in sorted({child.program.stop_rank for child in self._children.values()}):
            group = [child for child in self._children.values() if child.program.stop_rank == rank]
            for child in group:
                if child.alive():
                    child.process.terminate()
            deadline = {child.program.name: time.monotonic() + child.program.stop_seconds for child in group}
            for child in group:
                while child.alive() and time.monotonic() < deadline[child.program.name] and not self._hurry.is_set():
                    time.sleep(0.02)
                if child.alive():
                    self._on_notice(f"killing {child.program.name}: {self._why(child)}")
                    self._kill(child)
                child.pump.join(timeout=1.0)
        self._children.clear()

    def _why(self, child: _Child) -> str:
        return "asked to hurry" if self._hurry.is_set() else f"not ended after {child.program.stop_seconds:g} s"

    @staticmethod
    def _kill(child: _Child) -> None:
        # The child leads a process group of its own; whatever it started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


def _ending(returncode: int | None) -> str:
    assert returncode is not None
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"
