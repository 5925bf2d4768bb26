"""Redis is killed and comes back while jobs run: the same workers write on, and take the next job."""

import os
import signal
from pathlib import Path

from worker_processes import Workers

from woolly_worker.ledger.server import EmbeddedServer


def test_a_worker_outlives_redis(tmp_path: Path) -> None:
    data, port = tmp_path / "redis", 0
    with EmbeddedServer(data) as server:
        port = server.port
        with Workers(server, tmp_path) as workers:
            workers.have(1)
            (worker,) = workers.processes
            job_ids = [workers.submit(seed=seed) for seed in (1, 2)]
            for job_id in job_ids:
                workers.streaming(job_id)
            os.kill(server.pid, signal.SIGKILL)
            server.stop()  # only its files: it is dead
            with EmbeddedServer(data, port=port):
                results = [workers.result(job_id) for job_id in job_ids]
                assert [result.metrics.attempts for result in results] == [1, 1]
                # Both endings have been acknowledged to a connection that is gone; the worker takes that and goes on.
                assert workers.result(workers.submit(seed=1)).text == results[0].text
                assert worker.poll() is None
                assert workers.end(worker) == 0
    assert "Traceback" not in workers.log_text()
