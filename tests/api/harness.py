"""A real API server on a free port, in a thread of the test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from woolly_api.server import ApiServer, build_server
from woolly_api.services import Services
from woolly_api.settings import ApiSettings

# As shipped, only quicker, and without the reaper: a test that wants it says so.
QUICK = {"heartbeat_seconds": 0.2, "first_byte_seconds": 0.5, "shutdown_grace_seconds": 2, "reaper": False}


class RunningApi:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.bound_port}"
        self._before: dict[tuple[str, str], float] = {}

    @property
    def services(self) -> Services:
        services = self.server.app.state.services
        assert isinstance(services, Services)
        return services

    def mark(self) -> None:
        """Count from here on: tests share a server. Gauges tell what is, whatever was there before."""
        self._before = self._samples(but="gauge")

    def metric(self, name: str, **labels: str) -> float:
        key = (name, str(sorted(labels.items())))
        return self._samples().get(key, 0.0) - self._before.get(key, 0.0)

    def _samples(self, *, but: str = "") -> dict[tuple[str, str], float]:
        families = [family for family in self.services.metrics.registry.collect() if family.type != but]
        return {(s.name, str(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@contextmanager
def running_api(redis_url: str, **settings: object) -> Iterator[RunningApi]:
    server = build_server(ApiSettings(redis_url=redis_url, **{"port": 0, **QUICK, **settings}))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started
        yield RunningApi(server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
