"""What a caller sees of the workers that a job lost."""

import httpx

from woolly_api.client import WoollyClient
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim


def lose(ledger: Ledger, job_id: str, worker_id: str, *, alone: bool = False) -> None:
    assert isinstance(ledger.claim(job_id, worker_id, lease_seconds=60, alone=alone), Claim)
    ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    ledger.reap()


def test_a_job_shows_what_it_lost_when_and_how(http: httpx.Client, client: WoollyClient, ledger: Ledger) -> None:
    job_id = ledger.submit(JobRequest(model="tiny", prompt="the prompt")).job_id
    assert http.get(f"/v1/jobs/{job_id}").json()["history"] == []
    deaths = Deaths(ledger.client)
    deaths.certify("w1", signal="SIGKILL", exit_code=None, out_of_memory=True)
    for worker_id in ("w1", "w2"):
        lose(ledger, job_id, worker_id)
    lose(ledger, job_id, "w3", alone=True)
    deaths.certify("w3", signal=None, exit_code=7, out_of_memory=None)

    answer = http.get(f"/v1/jobs/{job_id}").json()
    assert (answer["state"], answer["crashes"]) == ("failed", 3)
    assert [(loss["worker"], loss["alone"], loss["how"]) for loss in answer["history"]] == [
        ("w1", False, "killed by the kernel: out of memory"),
        ("w2", False, "lease ran out, end unknown"),
        ("w3", True, "ended with exit code 7"),
    ]
    assert answer["history"][0]["ending"]["signal"] == "SIGKILL"
    assert answer["history"][1]["ending"] is None
    assert all(loss["noticed_at"] > 1_000_000_000 for loss in answer["history"])
    # The error has what was known when it was written; the job itself has what became known since.
    error = answer["result"]["error"]
    assert error["code"] == "poison_job"
    assert [loss["worker"] for loss in error["details"]["history"]] == ["w1", "w2", "w3"]
    assert "the prompt" not in str(answer["history"]) + str(error)
    # Clients read it, and a listing shows it, too.
    assert client.get(job_id).state is JobState.FAILED
    assert [loss.how for loss in client.get(job_id).history] == [loss["how"] for loss in answer["history"]]
    (listed,) = http.get("/v1/jobs").json()["jobs"]
    assert listed["history"] == answer["history"]
