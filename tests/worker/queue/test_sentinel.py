"""The server dies for good, and Sentinel names its replica: jobs go on there, and say what they would have said."""

import contextlib
import signal
import time
from collections.abc import Iterator

import pytest
from redis_servers import Sentinels
from worker_processes import Workers

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.jobs import JobResult
from woolly_worker.ledger import keys


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with contextlib.ExitStack() as stack:
        sentinels = Sentinels(tmp_path_factory.mktemp("sentinels"), stack)
        stack.callback(sentinels.close)
        yield sentinels


@pytest.fixture(scope="module")
def workers(sentinels: Sentinels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Workers(sentinels, tmp_path_factory.mktemp("workers")) as workers:  # type: ignore[arg-type]
        yield workers


@pytest.mark.slow
def test_jobs_go_on_after_a_failover(workers: Workers, sentinels: Sentinels) -> None:
    workers.have(1)
    (process,) = workers.processes
    uninterrupted: JobResult = workers.result(workers.submit())
    running = workers.submit()
    workers.streaming(running)
    sentinels.master.send_signal(signal.SIGKILL)
    result = _patiently(workers, running)
    # Tokens that the master acknowledged and its replica never saw are computed again, and are the same.
    assert (result.text, result.token_ids) == (uninterrupted.text, uninterrupted.token_ids)
    # New jobs come in through the broker, which has moved as well.
    assert _patiently(workers, workers.submit()).text == uninterrupted.text
    assert process.poll() is None
    assert workers.client.info("replication")["role"] == "master"
    assert workers.client.info("server")["tcp_port"] == sentinels.replica_port
    ids = [entry for entry, _ in workers.client.xrange(keys.events(running))]
    assert ids == [f"{seq}-0" for seq in range(1, len(ids) + 1)]


def _patiently(workers: Workers, job_id: str) -> JobResult:
    """Until the job has ended, whatever the server says until then."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return workers.result(job_id)
        except LedgerUnavailable:
            assert time.monotonic() < deadline, "no server in time"
            time.sleep(0.2)
