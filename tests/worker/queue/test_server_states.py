"""Redis answers, but refuses: it is a replica for a while, or its replicas are away. Workers wait for it and go on."""

import time
from pathlib import Path

import pytest
from worker_processes import Workers

from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.ledger.server import EmbeddedServer

# Longer than a turn of every part of a worker: its heartbeat, its reaper, its look for messages.
REFUSING_SECONDS = 2.5


def test_a_worker_outlives_a_server_that_refuses(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "redis") as server, Workers(server, tmp_path) as workers:
        workers.have(1)
        (worker,) = workers.processes
        calm = workers.result(workers.submit()).text
        for refuse, serve in (
            ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
            ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ):
            job_id = workers.submit()
            workers.streaming(job_id)
            workers.client.execute_command(*refuse.split())
            with pytest.raises(LedgerUnavailable):
                workers.submit()
            time.sleep(REFUSING_SECONDS)
            workers.client.execute_command(*serve.split())
            assert workers.result(job_id).text == calm
            assert workers.result(workers.submit(max_tokens=5)).text
            assert worker.poll() is None
        assert workers.end(worker) == 0
    assert "Unrecoverable" not in workers.log_text()
