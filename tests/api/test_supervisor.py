"""The supervisor, with real processes: small Python programs that note what happens to them."""

import http.client
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from woolly_api import supervisor as module
from woolly_api.supervisor import ChildFailed, Interrupted, Program, Supervisor


class Journal:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def supervisor(self) -> Supervisor:
        return Supervisor(lambda name, line: self.lines.append((name, line)), self.notices.append)


def python(name: str, code: str, **rest: object) -> Program:
    return Program(name, (sys.executable, "-u", "-c", textwrap.dedent(code)), **rest)  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


SLEEPER = "import time; print('up'); time.sleep(60)"


def test_lines_and_environment_reach_the_parent() -> None:
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(
        python(
            "a",
            "import os; print(os.environ['GREETING'])",
            env={"GREETING": "hello"},
            ready=lambda pid: bool(journal.lines),
        )
    )
    supervisor.stop()
    assert journal.lines == [("a", "hello")]


def test_a_dead_child_is_started_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.05)
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(python("a", "import sys; print('run'); sys.exit(3)"))
    supervisor.run(until=lambda: len(journal.lines) >= 3)
    supervisor.stop()
    deaths = [notice for notice in journal.notices if "ended with exit code 3" in notice]
    assert deaths[0] == "a ended with exit code 3; starting it again in 0.05 s"
    assert deaths[1] == "a ended with exit code 3; starting it again in 0.1 s"
    assert sum("a started again (pid" in notice for notice in journal.notices) >= 2


def test_a_child_that_has_served_comes_back_at_once_however_often_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(module, "SERVED_SECONDS", 0.0)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    journal = Journal()
    supervisor = journal.supervisor()

    def is_up(pid: int) -> bool:
        return ("a", str(pid)) in journal.lines

    supervisor.start(python("a", "import os, time; print(os.getpid()); time.sleep(60)", ready=is_up))
    for n_deaths in (1, 2, 3):
        os.kill(supervisor.pid("a"), signal.SIGKILL)
        supervisor.run(until=lambda n=n_deaths: len(journal.notices) == 2 * n and is_up(supervisor.pid("a")))  # type: ignore[misc]
        supervisor.check()  # sees that it is up
    supervisor.stop()
    assert journal.notices[::2] == ["a was killed by SIGKILL; starting it again in 0.05 s"] * 3


def test_whatever_ready_raises_ends_nothing_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    journal, asked = Journal(), list[int]()

    def is_ready(pid: int) -> bool:
        asked.append(pid)
        if asked.count(pid) < 3:
            raise http.client.IncompleteRead(b"")
        return True

    supervisor = journal.supervisor()
    supervisor.start(python("a", SLEEPER, ready=is_ready))
    told = "a: cannot see whether it is ready (IncompleteRead)"
    assert journal.notices == [told]
    first = supervisor.pid("a")
    os.kill(first, signal.SIGKILL)
    supervisor.run(until=lambda: len(set(asked)) == 2 and asked.count(asked[-1]) == 3)
    supervisor.stop()
    assert journal.notices.count(told) == 2


def test_a_restarted_child_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    journal, asked = Journal(), list[int]()

    def is_first(pid: int) -> bool:
        asked.append(pid)
        return len(asked) == 1

    supervisor = journal.supervisor()
    supervisor.start(python("a", SLEEPER, ready=is_first))
    os.kill(supervisor.pid("a"), signal.SIGKILL)
    supervisor.run(until=lambda: len(asked) == 2)
    for _ in range(3):
        supervisor.check()
    supervisor.stop()
    assert len(asked) == 2


def test_a_child_that_is_not_ready_again_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(module, "SERVED_SECONDS", 0.0)
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(python("a", "print('run')", ready=lambda pid: len(journal.lines) == 1))
    supervisor.run(until=lambda: len(journal.lines) >= 3 and len(journal.notices) >= 5)
    supervisor.stop()
    pauses = [notice.rsplit(" ", 2)[1] for notice in journal.notices if "starting it again in" in notice]
    assert pauses[:3] == ["0.05", "0.1", "0.2"]


def test_a_killed_child_is_named_with_its_signal() -> None:
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(python("a", SLEEPER, ready=lambda pid: bool(journal.lines)))
    os.kill(supervisor.pid("a"), signal.SIGKILL)
    supervisor.run(until=lambda: bool(journal.notices))
    supervisor.stop()
    assert journal.notices[0].startswith("a was killed by SIGKILL; starting it again in")


def test_a_child_that_ends_while_starting_is_an_error_with_its_last_words() -> None:
    supervisor = Journal().supervisor()
    with pytest.raises(ChildFailed, match="a ended with exit code 2") as caught:
        supervisor.start(python("a", "import sys; print('no such model'); sys.exit(2)", ready=lambda pid: False))
    supervisor.stop()
    assert caught.value.lines == ["no such model"]


def test_a_program_that_cannot_be_run_is_an_error() -> None:
    supervisor = Journal().supervisor()
    with pytest.raises(ChildFailed) as caught:
        supervisor.start(Program("a", ("/does/not/exist",), ready=lambda pid: False))
    supervisor.stop()
    assert caught.value.lines == ["/does/not/exist: No such file or directory"]


def test_a_child_that_is_never_ready_is_an_error() -> None:
    supervisor = Journal().supervisor()
    with pytest.raises(ChildFailed, match=r"was not ready after 0 s"):
        supervisor.start(python("a", SLEEPER, ready=lambda pid: False, ready_seconds=0.2))
    supervisor.stop()


def test_a_stop_request_ends_the_starting() -> None:
    supervisor = Journal().supervisor()
    threading.Timer(0.1, supervisor.request_stop).start()
    with pytest.raises(Interrupted):
        supervisor.start(python("a", SLEEPER, ready=lambda pid: False))
    supervisor.stop()


def test_children_stop_in_the_order_of_their_ranks() -> None:
    code = """
        import signal, sys, time
        def end(*_):
            time.sleep(0.2)
            print("end")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up")
        time.sleep(60)
    """
    journal = Journal()
    supervisor = journal.supervisor()
    for name, rank in (("server", 2), ("worker", 0), ("api", 1)):
        supervisor.start(
            python(name, code, stop_rank=rank, ready=lambda pid, name=name: (name, "up") in journal.lines)  # type: ignore[misc]
        )
    supervisor.stop()
    assert [name for name, line in journal.lines if line == "end"] == ["worker", "api", "server"]
    assert journal.notices == []


def test_a_stubborn_child_is_killed_and_so_is_what_it_started() -> None:
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
        time.sleep(60)
    """
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(python("a", code, stop_seconds=0.2, ready=lambda pid: bool(journal.lines)))
    pid, grandchild = supervisor.pid("a"), int(journal.lines[0][1])
    supervisor.stop()
    assert journal.notices == ["killing a: not ended after 0.2 s"]
    wait_for(lambda: gone(pid) and gone(grandchild))


def test_a_second_stop_request_waits_for_nobody() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    journal = Journal()
    supervisor = journal.supervisor()
    supervisor.start(python("a", code, stop_seconds=30, ready=lambda pid: bool(journal.lines)))
    supervisor.request_stop()
    threading.Timer(0.2, supervisor.request_stop).start()
    started = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - started < 10
    assert journal.notices == ["killing a: asked to hurry"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent dies")
def test_children_end_with_a_parent_that_was_killed() -> None:
    code = f"""
        import time
        from woolly_api.supervisor import Program, Supervisor
        supervisor = Supervisor(lambda name, line: None, print)
        supervisor.start(Program("a", ({sys.executable!r}, "-c", "import time; time.sleep(60)")))
        time.sleep(0.5)
        print(supervisor.pid("a"), flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
        parent.wait()
    wait_for(lambda: gone(child))
