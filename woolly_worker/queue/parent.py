"""The small process above a worker: passes signals on, waits for it, and records how it ended.

A worker that is killed cannot say so itself, and its jobs want to know what it died of. So `woolly worker` forks before
anything heavy is loaded: the child becomes the worker, and the parent, which loads nothing of ours unless it has
something to record, ends as its child did, by the same exit code or the same signal. If the parent is killed, the
kernel takes the child along.

Only on Linux. Elsewhere there is one process, and how it ended is not known.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from woolly_worker.queue.out_of_memory import oom_kills

PR_SET_PDEATHSIG = 1
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
WATCHED = {*PASSED_ON, signal.SIGCHLD, signal.SIGTSTP}
# For the certificate. Without Redis the worker's leases run out, as they do without a parent.
PATIENCE_SECONDS = 5.0
PAUSE_SECONDS = 0.5
LONGEST_ID_BYTES = 4096


def fork_worker(redis_url: str | None) -> Callable[[str], None]:
    """Returns in the child, which is to tell its worker id before it takes jobs, to what is returned. The parent does
    not return: it exits as the child does. `redis_url` None is the default of the settings."""
    if sys.platform != "linux":
        return lambda worker_id: None
    parent = os.getpid()
    n_killed = oom_kills()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may be inherited, there would be nothing to wait for
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    child = os.fork()
    if child == 0:
        os.close(reading)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew of our wish
            os._exit(1)
        os.setpgid(0, 0)  # Ctrl-C reaches the parent, which passes it on: once
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return lambda worker_id: _write(writing, worker_id)
    os.close(writing)
    code = _wait(child)
    worker_id = _read(reading)
    if code != 0 and worker_id:  # else it held no job
        n_killed_now = oom_kills()
        starved = None if n_killed is None or n_killed_now is None else n_killed_now > n_killed
        try:
            _record(redis_url, worker_id, code, starved and code == -signal.SIGKILL)
        except Exception as error:  # whoever supervises us still sees how it ended; its message may quote a URL
            print(f"the death of the worker {worker_id} is not recorded: {type(error).__name__}", file=sys.stderr)
    _end_as(code)
    raise AssertionError("not reached")


def _write(pipe: int, worker_id: str) -> None:
    os.write(pipe, worker_id.encode())


def _read(pipe: int) -> str:
    try:
        return os.read(pipe, LONGEST_ID_BYTES).decode()
    except BlockingIOError:  # something that it started lives on, and has the other end
        return ""


def _wait(child: int) -> int:
    """The exit code of the child, or a signal's number below zero, as subprocess has it."""
    while True:
        number = signal.sigwaitinfo(WATCHED).si_signo
        if number == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code
        elif number == signal.SIGTSTP:  # Ctrl-Z: both stand still until we are continued
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)
        else:
            os.kill(child, number)


def _reap(child: int) -> int | None:
    """Waits for everybody who has ended: as the first process of a container we inherit whoever is left behind."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)


def _record(redis_url: str | None, worker_id: str, code: int, out_of_memory: bool | None) -> None:
    """Writes the certificate and a line of log; the jobs of this worker go on elsewhere at once."""
    from woolly_worker.contract.errors import LedgerUnavailable
    from woolly_worker.ledger.connection import connect
    from woolly_worker.ledger.deaths import Deaths
    from woolly_worker.ledger.models import ModelRegistry
    from woolly_worker.settings import WorkerSettings
    from woolly_worker.telemetry import configure_logging, log

    configure_logging(os.environ.get("WOOLLY_LOG_LEVEL", "info"), os.environ.get("WOOLLY_LOG_FORMAT", "console"))
    name = _signal_name(-code) if code < 0 else None
    ending = {"signal": name, "exit_code": code if name is None else None, "out_of_memory": out_of_memory}
    client = connect(redis_url or str(WorkerSettings.model_fields["redis_url"].default))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            jobs = Deaths(client).certify(worker_id, **ending)  # type: ignore[arg-type]
            ModelRegistry(client).leave(worker_id)
        except LedgerUnavailable as error:
            if time.monotonic() >= deadline:
                log.error("the worker died, which is not recorded", worker_id=worker_id, reason=error.message, **ending)
                return
            time.sleep(PAUSE_SECONDS)
        else:
            log.error("the worker died", worker_id=worker_id, jobs=len(jobs), **ending)
            return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_as(code: int) -> None:
    """Whoever supervises us sees what happened to the worker."""
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker's own core is the one of interest
    number = -code
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    sys.exit(128 - code)  # the first process of a container survives that
