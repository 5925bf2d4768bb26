"""Traps: faults that a process does to itself at a named moment of a job's life.

The harness arms a trap by making a file in a folder; the process that reaches the moment first removes the file and
does what it says. So a fault hits between two given lines of the program, however fast the machine is.

Moments, each `<call>.before` or `<call>.after`, with the seq of a token where there is one:

    submit   an API is about to record a job, or has recorded it and has not rung
    ring     an API is about to send the bell
    claim    a worker is about to take a job, or has taken it
    prefill  a worker is about to write, or has written, that it computed a chunk of a prompt
    emit:<k> a worker is about to write, or has written, token k of some job
    finish   all tokens are written, the terminal event is not; or it is
    release  a worker that drains is about to give a job back, or has
"""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from woolly_worker.contract.events import StateEvent
from woolly_worker.ledger.ledger import Ledger

KILL, STOP = "kill", "stop"


class TrapFolder:
    """The harness's side."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def arm(self, moment: str, action: str) -> None:
        (self.path / moment).write_text(action)

    def armed(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    def disarm_all(self) -> None:
        for path in self.path.iterdir():
            path.unlink(missing_ok=True)


def spring(folder: Path, moment: str) -> None:
    """In the process under attack: if a trap is set for this moment, do it."""
    trap = folder / moment
    try:
        action = trap.read_text()
        trap.unlink()  # of two processes at the same moment only one succeeds
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL if action == KILL else signal.SIGSTOP)


def lay(folder: Path) -> None:
    """Puts the moments into this process's ledger."""

    def around(name: str, moments: Callable[..., list[str]]) -> None:
        method = getattr(Ledger, name)

        @wraps(method)
        def trapped(self: Ledger, *args: Any, **kwargs: Any) -> Any:
            reached = moments(*args)
            for moment in reached:
                spring(folder, f"{moment}.before")
            answer = method(self, *args, **kwargs)
            for moment in reached:
                spring(folder, f"{moment}.after")
            return answer

        setattr(Ledger, name, trapped)

    around("emit", _moments_of_a_step)
    for name in ("submit", "claim", "finish", "release"):
        around(name, lambda *args, name=name: [name])  # type: ignore[misc]


def _moments_of_a_step(emissions: Any) -> list[str]:
    reached = [f"emit:{emission.seq}" for emission in emissions if emission.seq]
    if any(isinstance(emission.event, StateEvent) and emission.event.prefill_done for emission in emissions):
        reached.append("prefill")
    return reached
