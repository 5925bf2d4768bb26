"""EnginePool: Celery's thread pool, with the engine's life tied to it.

A task thread only waits; the engine does the work for all of them. So starting the pool loads the model, stopping it
drains the engine, and terminating a task is a word to the engine. With the stock pool `revoke(terminate=True)`,
Flower's terminate button, time limits and a bounded shutdown fail or are ignored.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult, TaskPool

from woolly_worker.contract.errors import WoollyError
from woolly_worker.queue.runtime import Runtime
from woolly_worker.telemetry import log

EXIT_SUCCESS, EXIT_FAILURE = 0, 1
# After the drain every task has its outcome and only has to report it.
STOP_SECONDS = 5.0


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """While the model loads there is nothing to drain yet, and Celery would look at a signal only afterwards: end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_SUCCESS)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class EngineApplyResult(ApplyResult):
    """A running task, as Celery may end it."""

    def __init__(self, future: "Future[Any]", runtime: Runtime, task_id: str) -> None:
        super().__init__(future)
        self._runtime = runtime
        self.task_id = task_id

    def terminate(self, number: int | None = None) -> None:
        """Celery calls this on revoke(terminate=True) and for every running task of a cold shutdown."""
        log.info("task terminated", task_id=self.task_id, signal=number)
        self._runtime.terminate(self.task_id)


class EnginePool(TaskPool):
    """Its app is a `worker.WorkerApp`, which brings the runtime."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runtime: Runtime = self.app.runtime
        # Celery keeps only a weak reference: without this one, terminate() would find nothing.
        self._results: dict[Future[Any], EngineApplyResult] = {}
        self._stopped = False
        self.stuck = False  # a task did not return: its thread would keep the process alive

    def on_start(self) -> None:
        try:
            with _stoppable():
                self.runtime.start()
        except WoollyError as error:
            # Celery would log a traceback. Whoever started the worker says it in one line.
            self.app.startup_error = error
            raise SystemExit(EXIT_FAILURE) from error
        super().on_start()

    def on_close(self) -> None:
        self.runtime.begin_drain()

    def on_stop(self) -> None:
        if self._stopped:  # a second signal during the first stop gets here again
            return
        self._stopped = True
        self.runtime.drain(self.app.settings.drain_seconds)
        self.executor.shutdown(wait=False, cancel_futures=True)
        results = dict(self._results)
        stuck = wait(results, STOP_SECONDS).not_done
        if stuck:
            self.stuck = True
            log.error("tasks did not return", tasks=[results[future].task_id for future in stuck])
        self.runtime.stop()

    def on_terminate(self) -> None:
        self.on_stop()

    def terminate_job(self, pid: int, number: int | None = None) -> None:
        """There is no process to kill: terminate() of the task's ApplyResult follows, and does it."""

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        correlation_id: str = "",
        soft_timeout: float | None = None,
        timeout: float | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> EngineApplyResult:
        future = self.executor.submit(apply_target, target, args, kwargs, callback, accept_callback)
        result = EngineApplyResult(future, self.runtime, correlation_id)
        self._results[future] = result
        future.add_done_callback(lambda done: self._results.pop(done, None))
        limit = soft_timeout or timeout
        if limit:
            # Both limits end the job in the engine: there is no process to kill after the hard one.
            timer = threading.Timer(limit, self._on_limit, (result, limit, timeout_callback))
            timer.daemon = True
            timer.start()
            future.add_done_callback(lambda done: timer.cancel())
        return result

    @staticmethod
    def _on_limit(result: EngineApplyResult, limit: float, timeout_callback: Callable[..., Any] | None) -> None:
        if timeout_callback is not None:
            timeout_callback(True, limit)
        result.terminate()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return {**info, "model": self.app.settings.served_name, "draining": self.runtime.draining}
