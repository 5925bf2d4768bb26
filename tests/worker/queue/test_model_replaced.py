"""The model's file changes while jobs run: no stream may go on with other weights than it began with."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scripted import eventually
from worker_processes import Workers

from woolly_worker.contract.jobs import JobView
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import STRAND_SECONDS
from woolly_worker.ledger.models import HEARTBEAT_SECONDS
from woolly_worker.ledger.server import EmbeddedServer


def change_weights(path: Path) -> None:
    """Another model of the same shape: what is likely before is unlikely now."""
    with GGUFFile(path) as file:
        info = file.tensors["output_norm.weight"]
    with path.open("r+b") as changed:
        changed.seek(info.offset)
        weights = np.frombuffer(changed.read(info.n_bytes), dtype=np.float32)
        changed.seek(info.offset)
        changed.write((-weights).tobytes())


def ended_unserved(workers: Workers, job_id: str) -> JobView:
    """As if everybody who could not continue it had been asked STRAND_SECONDS ago."""
    record = keys.job(job_id)

    def ended() -> bool:
        since = workers.client.hget(record, "unserved_ms")
        if since is not None and workers.ledger.view(job_id).state not in TERMINAL_STATES:
            workers.client.hset(record, "unserved_ms", int(str(since)) - int(STRAND_SECONDS * 1000))
        return workers.ledger.view(job_id).state in TERMINAL_STATES

    eventually(ended, 30.0)
    return workers.ledger.view(job_id)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    model = Path(shutil.copyfile(DEMO_MODEL, tmp_path / "model.gguf"))
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        Workers(server, tmp_path, WOOLLY_MODEL=str(model)) as workers,
    ):
        yield workers


def test_a_job_goes_on_with_its_weights_or_ends(workers: Workers, tmp_path: Path) -> None:
    workers.have(2)
    calm = workers.result(workers.submit())
    going_on, ending = workers.submit(), workers.submit()
    workers.streaming(going_on)
    workers.streaming(ending)
    # when: there is a new file, one of the two workers is killed, and a third one opens it
    new = Path(shutil.copyfile(DEMO_MODEL, tmp_path / "new.gguf"))
    change_weights(new)
    new.rename(tmp_path / "model.gguf")
    killed = workers.owner(ending)
    (last,) = [process for process in workers.processes if process is not killed]
    workers.end(killed, signal.SIGKILL)
    workers.start(2)
    # then: the job that was lost goes on where its weights are
    assert workers.result(ending).text == calm.text
    assert workers.result(going_on).text == calm.text
    # when: the last worker with those weights is killed in the middle of a job
    workers.have(2)
    for process in [process for process in workers.processes if process is not last]:
        workers.end(process)
    stranded = workers.submit(max_tokens=400)
    workers.streaming(stranded)
    workers.start(2)
    workers.end(last, signal.SIGKILL)
    # then: the job waits for a worker with its weights, and when that was long, it ends and says why
    view = ended_unserved(workers, stranded)
    assert (view.state, view.crashes) == (JobState.FAILED, 1)
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "model_replaced"
    assert len(view.result.token_ids) >= 10
    assert not calm.text.startswith(workers.result(workers.submit(max_tokens=20)).text)


def test_a_job_waits_for_the_worker_with_its_weights_to_restart(workers: Workers, tmp_path: Path) -> None:
    workers.have(1)
    undisturbed = workers.submit()
    (first,) = workers.processes
    workers.streaming(undisturbed)
    new = Path(shutil.copyfile(DEMO_MODEL, tmp_path / "new.gguf"))
    change_weights(new)
    workers.have(2, WOOLLY_MODEL=str(new))
    calm = workers.result(undisturbed)
    (other,) = [process for process in workers.processes if process is not first]
    workers.end(other)
    job_id = workers.submit()
    workers.streaming(job_id)
    workers.start(2, WOOLLY_MODEL=str(new))
    workers.end(first, signal.SIGTERM)
    eventually(lambda: workers.client.hexists(keys.job(job_id), "unserved_ms"))
    workers.start(2)
    assert workers.result(job_id).text == calm.text
    assert not workers.client.hexists(keys.job(job_id), "unserved_ms")


def test_a_worker_whose_file_is_written_to_ends_and_gives_its_jobs_back(workers: Workers, tmp_path: Path) -> None:
    workers.have(1)
    job_id = workers.submit(max_tokens=400)
    workers.streaming(job_id)
    (process,) = workers.processes
    # when: its time changes, and the next heartbeat has seen that
    (tmp_path / "model.gguf").touch()
    time.sleep(HEARTBEAT_SECONDS + 1)
    # then: it works on, until the weights do
    assert process.poll() is None
    change_weights(tmp_path / "model.gguf")
    assert process.wait(15) == 1
    eventually(lambda: "the model's file was written to" in workers.log_text())
    view = workers.ledger.view(job_id)
    assert (view.state, view.crashes) == (JobState.QUEUED, 0)
    workers.processes.remove(process)
    workers.have(1)
    ended = ended_unserved(workers, job_id)
    assert ended.result is not None
    assert ended.result.error is not None
    assert ended.result.error.code == "model_replaced"
