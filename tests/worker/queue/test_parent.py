"""The parent of a worker, with real processes: what it passes on, what it takes along, and what it records."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from scripted import eventually, request

from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.queue import parent
from woolly_worker.queue.out_of_memory import oom_kills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker has no parent")

SERVING = "print(os.getpid(), os.getppid(), flush=True)\n"
COUNTING = """
n = [0]
def count(number, frame):
    n[0] += 1
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, count)
"""


@contextmanager
def family(code: str, redis_url: str = "", before: str = "", **popen: object) -> Iterator["subprocess.Popen[str]"]:
    """A parent whose child runs `code`, with `introduce` at hand."""
    program = (
        f"import os, signal, sys, time\nfrom woolly_worker.queue import parent\n{before}\n"
        f"introduce = parent.fork_worker({redis_url!r})\n" + textwrap.dedent(code)
    )
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def pids(process: "subprocess.Popen[str]") -> tuple[int, int]:
    """The child's and its parent's, once it runs."""
    assert process.stdout is not None
    child, parent = process.stdout.readline().split()
    return int(child), int(parent)


def gone(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", -signal.SIGRTMIN - 3),
    ],
)
def test_it_ends_as_its_child_did(code: str, status: int) -> None:
    with family(code) as process:
        assert process.wait(20) == status
        assert process.communicate() == ("", "")


@pytest.mark.parametrize("number", parent.PASSED_ON)
def test_a_signal_reaches_the_child_once(number: signal.Signals) -> None:
    code = COUNTING + SERVING + "while not n[0]: time.sleep(0.01)\ntime.sleep(0.2)\nsys.exit(40 + n[0])"
    with family(code, start_new_session=True) as process:
        pids(process)
        os.killpg(process.pid, number)  # as a terminal does: to the whole group
        assert process.wait(20) == 41


def test_both_stop_and_go_on_together() -> None:
    with family(SERVING + "time.sleep(60)") as process:
        child, parent = pids(process)
        state = lambda pid: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]  # noqa: E731
        os.kill(parent, signal.SIGTSTP)
        eventually(lambda: state(child) == state(parent) == "T")
        os.kill(parent, signal.SIGCONT)
        eventually(lambda: state(child) == state(parent) == "S")


def test_a_killed_parent_takes_its_child_along() -> None:
    with family(COUNTING + SERVING + "time.sleep(60)") as process:
        child, _ = pids(process)
        assert not gone(child)
        process.kill()
        eventually(lambda: gone(child))


def test_it_waits_for_whoever_is_left_behind() -> None:
    """As the first process of a container. PR_SET_CHILD_SUBREAPER (36) makes it inherit orphans elsewhere."""
    code = """
    import ctypes
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(0)
        os._exit(0)
    os.waitpid(middle, 0)
    print(os.getpid(), os.getppid(), flush=True)
    time.sleep(60)
    """
    program = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
    with family(code, env={**os.environ, "PYTHONSTARTUP": ""}, preexec_fn=lambda: exec(program)) as process:
        child, parent = pids(process)
        children = Path(f"/proc/{parent}/task/{parent}/children")
        eventually(lambda: [int(pid) for pid in children.read_text().split()] == [child])


def test_a_death_is_recorded_and_its_jobs_are_free_at_once(ledger: Ledger, redis_url: str) -> None:
    ledger.submit(request(), job_id="j")
    ledger.claim("j", "worker-1", lease_seconds=600)
    with family("introduce('worker-1'); os.kill(os.getpid(), signal.SIGSEGV)", redis_url) as process:
        assert process.wait(20) == -signal.SIGSEGV
        _, log = process.communicate()
    assert log.count("the worker died") == 1
    assert "SIGSEGV" in log
    (bell,) = ledger.reap().bells
    assert bell.job_id == "j"
    view = ledger.view("j")
    assert (view.state, [loss.how for loss in view.history]) == (JobState.QUEUED, ["killed by SIGSEGV"])
    ending = view.history[0].ending
    assert ending is not None
    assert (ending.signal, ending.exit_code, ending.out_of_memory) == (
        "SIGSEGV",
        None,
        None if oom_kills() is None else False,
    )


@pytest.mark.parametrize(
    "code",
    ["introduce('worker-1')", "os._exit(7)", "os.kill(os.getpid(), signal.SIGKILL)"],
    ids=["ended well", "failed before it served", "killed before it served"],
)
def test_what_cost_no_job_is_not_recorded(ledger: Ledger, redis_url: str, code: str) -> None:
    with family(code, redis_url) as process:
        process.wait(20)
        assert process.communicate() == ("", "")
    assert ledger.client.keys("woolly:death:*") == []


def test_an_exit_code_is_recorded(ledger: Ledger, redis_url: str) -> None:
    with family("introduce('worker-1'); os._exit(7)", redis_url) as process:
        assert process.wait(20) == 7
    assert Deaths(ledger.client).of(["worker-1"])["worker-1"].exit_code == 7
    assert ledger.client.ttl(keys.death("worker-1")) > 3600


def test_a_signal_without_a_name_is_recorded_by_its_number(ledger: Ledger, redis_url: str) -> None:
    number = signal.SIGRTMIN + 3
    with family("introduce('worker-1'); os.kill(os.getpid(), signal.SIGRTMIN + 3)", redis_url) as process:
        assert process.wait(20) == -number
    assert Deaths(ledger.client).of(["worker-1"])["worker-1"].signal == f"signal {number}"


@pytest.mark.parametrize(
    ("code", "status"),
    [("os._exit(7)", 7), ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV)],
)
def test_it_ends_as_its_child_did_though_the_record_cannot_be_written(code: str, status: int) -> None:
    with family(f"introduce('worker-1'); {code}", "no://address") as process:
        assert process.wait(20) == status
        _, log = process.communicate()
    assert log == "the death of the worker worker-1 is not recorded: ValueError\n"


def test_without_redis_it_says_so_and_ends() -> None:
    code, before = "introduce('worker-1'); os._exit(7)", "parent.PATIENCE_SECONDS = 0.1"
    env = {**os.environ, "WOOLLY_LOG_FORMAT": "json"}
    with family(code, "redis://127.0.0.1:1/0", before, env=env) as process:
        assert process.wait(60) == 7
        _, log = process.communicate()
    assert '"event": "the worker died, which is not recorded"' in log


def test_kills_for_memory_are_counted_where_the_kernel_does(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"

    def count(file: str, text: str, *groups: str) -> int | None:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        own.write_text("\n".join(groups) + "\n")
        found = oom_kills(root, own)
        path.unlink()
        return found

    assert count("a/b/memory.events", "low 0\noom 4\noom_kill 3\n", "0::/a/b") == 3
    assert count("memory.events", "oom_kill 2\n", "0::/not/here") == 2  # the path is the host's, this is a container
    old = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
    assert count("memory/a/memory.oom_control", old, "7:cpu:/", "4:memory:/a", "0::/") == 5
    assert count("memory/memory.oom_control", old, "4:memory:/not/here") == 5
    assert count("memory/memory.oom_control", "under_oom 0\n", "4:memory:/") is None  # an older kernel
    assert count("else", "", "0::/") is None
    assert oom_kills(root, tmp_path / "absent") is None
