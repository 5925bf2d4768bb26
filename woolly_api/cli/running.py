"""A cluster of child processes for the time of a `with` block: start, signals, log lines, and an orderly end."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

from woolly_api.cli.cluster_log import ClusterOutput
from woolly_api.cli.progress import Progress
from woolly_api.programs import Cluster
from woolly_api.supervisor import ChildFailed, Interrupted, Supervisor


@contextlib.contextmanager
def running(cluster: Cluster, log: ClusterOutput, progress: Progress) -> Iterator[Supervisor]:
    """The supervisor of a cluster that is ready. SIGINT, SIGTERM and SIGHUP ask it to stop; a second one hurries.

    Raises what `log` makes of it, with the last lines of whoever failed, when the cluster does not come up.
    """
    supervisor = Supervisor(log.line, lambda text: log.notice(text, "warning"))
    with _signals(supervisor):
        try:
            _start(cluster, supervisor, progress)
            log.starting = False
            yield supervisor
        except ChildFailed as failure:
            raise log.failure(str(failure), failure.name, failure.lines) from failure
        except Interrupted as interrupted:
            raise typer.Exit(130) from interrupted
        finally:
            progress.done()
            if supervisor.stop_requested:
                log.notice("stopping: running jobs may finish first (Ctrl-C again stops at once)")
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
