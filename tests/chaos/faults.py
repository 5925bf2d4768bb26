"""Carries out the faults of a schedule on a fleet, each at its time."""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from chaos.fleet import Fleet
from chaos.proxy import Proxy
from chaos.schedule import Fault
from chaos.traps import KILL, STOP

DELAY_LASTS_SECONDS = 1.0


class Faults:
    """One thread per fault, because some of them take a while. `wait` returns when all are over."""

    def __init__(self, fleet: Fleet, faults: tuple[Fault, ...]) -> None:
        self.injected: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._fleet = fleet
        self._server_lock = threading.Lock()  # it cannot be stopped and restarted at once
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._at_its_time, args=(fault,), daemon=True) for fault in faults]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _at_its_time(self, fault: Fault) -> None:
        time.sleep(max(0.0, self._began + fault.at - time.monotonic()))
        self.injected[fault.kind] += 1
        try:
            _DEEDS[fault.kind](self, fault)
        except BaseException as error:
            self.errors.append(error)

    def _trap(self, fault: Fault) -> None:
        self._fleet.traps.arm(fault.moment, KILL if fault.kind == "trap kill" else STOP)

    def _kill_worker(self, fault: Fault) -> None:
        self._fleet.kill(self._fleet.workers[fault.target % len(self._fleet.workers)])

    def _stop_worker(self, fault: Fault) -> None:
        self._fleet.stop(self._fleet.workers[fault.target % len(self._fleet.workers)], fault.seconds)

    def _drain_worker(self, fault: Fault) -> None:
        self._fleet.workers[fault.target % len(self._fleet.workers)].signal(signal.SIGTERM)

    def _kill_api(self, fault: Fault) -> None:
        self._fleet.kill(self._fleet.apis[fault.target % len(self._fleet.apis)])

    def _client_kill(self, fault: Fault) -> None:
        with self._server_lock:
            self._fleet.kill_connections(fault.moment)

    def _drop_bells(self, fault: Fault) -> None:
        with self._server_lock:
            self._fleet.drop_bells()

    def _double_bells(self, fault: Fault) -> None:
        with self._server_lock:
            self._fleet.double_bells()

    def _restart_server(self, fault: Fault) -> None:
        with self._server_lock:
            self._fleet.restart_server(fault.seconds)

    def _stop_server(self, fault: Fault) -> None:
        with self._server_lock:
            self._fleet.stop_server(fault.seconds)

    def _replace_model(self, fault: Fault) -> None:
        """As an upgrade does it: a new file under the old name. Who has the old one open keeps it."""
        new = self._fleet.model.with_suffix(".new")
        shutil.copyfile(self._fleet.model, new)
        new.rename(self._fleet.model)

    def _delay(self, fault: Fault) -> None:
        for proxy in (self._fleet.worker_proxy, self._fleet.api_proxy):
            proxy.delay_seconds = fault.seconds
        time.sleep(DELAY_LASTS_SECONDS)
        for proxy in (self._fleet.worker_proxy, self._fleet.api_proxy):
            proxy.delay_seconds = 0.0

    def _deaf(self, proxy: Proxy, fault: Fault) -> None:
        proxy.deaf = True
        time.sleep(fault.seconds)
        proxy.calm()


_DEEDS: dict[str, Callable[[Faults, Fault], None]] = {
    "trap kill": Faults._trap,
    "trap stop": Faults._trap,
    "kill worker": Faults._kill_worker,
    "stop worker": Faults._stop_worker,
    "drain worker": Faults._drain_worker,
    "kill api": Faults._kill_api,
    "cut workers": lambda self, fault: self._fleet.worker_proxy.cut(),
    "cut apis": lambda self, fault: self._fleet.api_proxy.cut(),
    "client kill": Faults._client_kill,
    "deaf workers": lambda self, fault: self._deaf(self._fleet.worker_proxy, fault),
    "deaf apis": lambda self, fault: self._deaf(self._fleet.api_proxy, fault),
    "delay": Faults._delay,
    "drop bells": Faults._drop_bells,
    "double bells": Faults._double_bells,
    "server restart": Faults._restart_server,
    "server stop": Faults._stop_server,
    "replace model": Faults._replace_model,
}
