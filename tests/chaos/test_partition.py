"""Several hosts, and a network that comes apart between a worker and Redis while both live.

Hosts are network namespaces: one with the server, one for each worker, joined by virtual cables. A cable that is pulled
swallows packets and tells nobody, unlike a proxy on one host.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.fleet import HERE, SHARED_SETTINGS, WORKER_SETTINGS, environment
from cluster import wait_for

from woolly_worker.contract.events import TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import JobRequest, JobResult, SamplingParams
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelRegistry
from woolly_worker.ledger.server import find_program, server_argv
from woolly_worker.queue.app import create_app

PORT = 6379
N_TOKENS = 150
START_SECONDS = 240.0
REQUEST = JobRequest(
    model="tiny",
    prompt="Once upon a time there was a secretive fox",
    sampling=SamplingParams(temperature=0.9, seed=4, max_tokens=N_TOKENS, ignore_eos=True),
)


class Host:
    """A network namespace: it lives as long as the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            raise OSError(f"no network namespaces here: {self._holder.communicate()[1].decode().strip()}")

    @property
    def pid(self) -> int:
        return self._holder.pid

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", "--net", "--target", str(self.pid), *argv]

    def ip(self, *argv: str) -> None:
        subprocess.run(self.command("ip", *argv), check=True, capture_output=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class Network:
    """A server's host, and a host for each worker at the end of a cable. The server also listens on a Unix socket,
    which needs no network: that is how the test looks at it."""

    def __init__(self, folder: Path, n_workers: int) -> None:
        self._hosts: list[Host] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder = folder
        try:
            self.server_host = self._host()
            self.worker_hosts = [self._host() for _ in range(n_workers)]
            for index, host in enumerate(self.worker_hosts):
                self._lay_cable(index, host)
            self._start_server()
            self.client = connect(f"unix://{folder}/redis.sock")
            wait_for(self._answers, 20)
        except BaseException:
            self.close()
            raise
        self.ledger = Ledger(self.client)
        self.workers = [self._start_worker(index) for index in range(n_workers)]
        wait_for(lambda: len(self._ready()) == n_workers, START_SECONDS, self.log_text)

    def pull_cable(self, index: int) -> None:
        self.server_host.ip("link", "set", f"cable{index}", "down")

    def plug_in(self, index: int) -> None:
        self.server_host.ip("link", "set", f"cable{index}", "up")

    def swallow_replies(self, index: int) -> None:
        """What the worker says arrives; what the server says to it does not."""
        self.server_host.ip("route", "add", "blackhole", f"10.231.{index}.2/32")

    def deliver_replies(self, index: int) -> None:
        self.server_host.ip("route", "del", "blackhole", f"10.231.{index}.2/32")

    def submit(self) -> str:
        submitted = self.ledger.submit(REQUEST)
        assert submitted.bell is not None
        with create_app(f"unix://{self.folder}/redis.sock") as app:
            app.send_task(**submitted.bell.send_task_options())
        wait_for(lambda: self.ledger.view(submitted.job_id).last_seq >= 5, 30, self.log_text)
        return submitted.job_id

    def owner(self, job_id: str) -> int:
        pid = int(str(self.client.hget(keys.job(job_id), "owner")).split("-")[-2])
        return next(index for index, worker in enumerate(self.workers) if worker.pid == pid)

    def result(self, job_id: str) -> JobResult:
        """Of a job that succeeded with a whole stream."""
        wait_for(lambda: self.ledger.view(job_id).state in TERMINAL_STATES, 40, self.log_text)
        view = self.ledger.view(job_id)
        assert view.state is JobState.SUCCEEDED
        assert view.result is not None
        entries: Any = self.client.xrange(keys.events(job_id))
        assert [entry_id for entry_id, _ in entries] == [f"{seq}-0" for seq in range(1, N_TOKENS + 2)]
        events = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries]
        assert tuple(e.token_id for e in events if isinstance(e, TokenEvent)) == view.result.token_ids
        return view.result

    def log_text(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for host in self._hosts:
            host.close()
        if hasattr(self, "client"):
            self.client.close()

    def _host(self) -> Host:
        self._hosts.append(Host())
        return self._hosts[-1]

    def _lay_cable(self, index: int, host: Host) -> None:
        near, far = f"cable{index}", "cable"
        self.server_host.ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", str(host.pid))
        for end, name, number in ((self.server_host, near, 1), (host, far, 2)):
            end.ip("addr", "add", f"10.231.{index}.{number}/24", "dev", name)
            end.ip("link", "set", name, "up")

    def _start_server(self) -> None:
        argv = server_argv(find_program(), port=PORT, data_dir=self.folder)
        argv[argv.index("--bind") + 1] = "0.0.0.0"  # of a namespace that leads nowhere else
        argv += ["--protected-mode", "no", "--unixsocket", f"{self.folder}/redis.sock"]
        self._spawn(self.server_host, argv, "server", dict(os.environ))

    def _start_worker(self, index: int) -> "subprocess.Popen[bytes]":
        env = {**environment(), **WORKER_SETTINGS, **SHARED_SETTINGS, "CHAOS_TRAPS": str(self.folder)}
        env |= {"WOOLLY_REDIS_URL": f"redis://10.231.{index}.1:{PORT}/0", "WOOLLY_MODEL": str(DEMO_MODEL)}
        argv = [sys.executable, str(HERE / "chaos_worker.py")]
        return self._spawn(self.worker_hosts[index], argv, f"worker{index}", env)

    def _spawn(self, host: Host, argv: list[str], name: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(host.command(*argv), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        return self._processes[-1]

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except Exception:
            return False

    def _ready(self) -> list[str]:
        return [beat.worker_id for beat in ModelRegistry(self.client).workers() if beat.state == "ready"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    try:
        network = Network(tmp_path_factory.mktemp("net"), 2)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield network
    network.close()


@pytest.fixture(scope="module")
def calm(network: Network) -> JobResult:
    return network.result(network.submit())


def test_a_worker_beyond_a_partition_loses_its_job_and_says_nothing_afterwards(
    network: Network, calm: JobResult
) -> None:
    job_id = network.submit()
    cut_off = network.owner(job_id)
    network.pull_cable(cut_off)
    wait_for(lambda: network.ledger.view(job_id).attempts == 2, 20, network.log_text)
    other = network.owner(job_id)
    network.plug_in(cut_off)  # while the other one is at work
    result = network.result(job_id)
    assert other != cut_off
    assert (result.text, result.token_ids) == (calm.text, calm.token_ids)
    assert (result.metrics.attempts, result.metrics.crashes) == (2, 1)
    wait_for(lambda: "fenced out" in network.log_text(), 20, network.log_text)
    assert network.workers[cut_off].poll() is None


def test_a_worker_whose_replies_get_lost_writes_each_token_once(network: Network, calm: JobResult) -> None:
    job_id = network.submit()
    owner = network.owner(job_id)
    for _ in range(3):
        network.swallow_replies(owner)
        time.sleep(0.3)  # shorter than a lease
        network.deliver_replies(owner)
        time.sleep(0.3)
    result = network.result(job_id)
    assert (result.text, result.token_ids) == (calm.text, calm.token_ids)


def test_all_workers_beyond_a_partition_go_on_behind_it(network: Network, calm: JobResult) -> None:
    job_ids = [network.submit() for _ in range(2)]
    for index in range(2):
        network.pull_cable(index)
    time.sleep(3.0)
    for index in range(2):
        network.plug_in(index)
    for job_id in job_ids:
        assert network.result(job_id).text == calm.text
    assert all(worker.poll() is None for worker in network.workers)
