"""The whole cluster on a Redis that is protected: TLS with certificates of both sides, and the user of
deploy/redis/woolly.acl, who may do what Woolly does and nothing else."""

import asyncio
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cluster import WOOLLY, Cluster, environment, running_cluster
from redis_servers import PASSWORD, QUOTED_PASSWORD, ProtectedServer, protected_server

from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, SamplingParams, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys, versions
from woolly_worker.ledger.connection import connect, connect_async
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry, WorkerBeat
from woolly_worker.ledger.persistence import read_persistence
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Bell, Claim, Emission, Finish, Once, Reply
from woolly_worker.queue.app import create_app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProtectedServer]:
    with protected_server(tmp_path_factory.mktemp("protected")) as server:
        yield server


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ProtectedServer]:
    """One that no program is connected to."""
    with protected_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(server: ProtectedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    state_dir = tmp_path_factory.mktemp("state")
    options = ("--redis", server.url, "--threads", "1", "--name", "fox/one:two")
    with running_cluster("demo", state_dir, *options, FLOWER_UNAUTHENTICATED_API="true") as cluster:
        yield cluster


def refused(server: ProtectedServer) -> set[str]:
    """All but the one thing that is asked for and done without: CONFIG would tell passwords, too."""
    return {entry for entry in server.refused() if "config|get" not in entry}


def request(max_tokens: int = 400) -> JobRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return JobRequest(model="fox/one:two", prompt="Once upon a time", sampling=sampling)


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as response:
        return str(response.read().decode())


@pytest.mark.slow
def test_every_way_through_a_cluster_keeps_to_the_users_rights(guarded: Cluster, server: ProtectedServer) -> None:
    server.admin.acl_log_reset()
    with guarded.client() as client, connect(server.url) as redis:
        # Streamed; and the same again, many at once, so that most are interrupted when their worker is killed.
        job = client.submit(request())
        text = "".join(event.text for event in client.events(job.id) if event.type in ("token", "done"))
        interrupted = [client.submit(request()) for _ in range(12)]
        (beat,) = ModelRegistry(redis).workers()
        os.kill(beat.pid, signal.SIGKILL)

        # Cancelled while it waits for the worker that starts again.
        cancelled = client.submit(request())
        assert client.cancel(cancelled.id).state is JobState.CANCELLED
        for one in interrupted:
            ended = client.wait(one.id)
            assert ended.result is not None
            assert ended.result.text == text

        # The pages, and what an operator types.
        assert "woolly_up 1.0" in get(f"{guarded.flower_url}/metrics")
        assert '"messages": 0' in get(f"{guarded.flower_url}/api/queues/length")
        for page in ("workers", "broker", "tasks"):
            assert "Flower" in get(f"{guarded.flower_url}/{page}")
        assert "fox/one:two" in get(f"{guarded.api_url}/v1/models")
        assert get(f"{guarded.api_url}/api/v1/performance/stats")
        listed = subprocess.run(
            [*WOOLLY, "jobs", "--api", guarded.api_url], env=environment(), capture_output=True, text=True, check=True
        )
        assert job.id in listed.stdout

        # Flower's terminate button: a control message, which every worker hears.
        running = client.submit(request())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"{guarded.flower_url}/api/task/revoke/{running.id}.1?terminate=true", data=b"", timeout=20)
        assert client.wait(running.id).state in (JobState.CANCELLED, JobState.SUCCEEDED)
    assert refused(server) == set()
    assert PASSWORD not in guarded.output
    assert QUOTED_PASSWORD not in guarded.output


def test_every_transition_keeps_to_the_users_rights(fresh: ProtectedServer) -> None:
    """The short one: what the ledger and the broker are asked for, without the programs around them."""
    with connect(fresh.url) as redis, closing(create_app(fresh.url)) as app:
        versions.agree(redis)
        registry, ledger = ModelRegistry(redis), Ledger(redis, bell_seconds=0.001, max_crashes=1)
        registry.announce(ModelCard(name="tiny", architecture="llama", n_ctx=8))
        registry.beat(WorkerBeat(worker_id="w", model="tiny", hostname="h", pid=1))
        job = JobRequest(model="tiny", prompt="Once", deadline_seconds=600)
        done, given_back, lost, cancelled, damaged, waiting = (
            ledger.submit(job, once=Once(str(number), "d")).job_id for number in range(6)
        )
        unfollowed = ledger.submit(job, follow_seconds=0.001).job_id
        app.send_task(**Bell(done, "tiny", 1).send_task_options())
        assert ledger.submit(job, once=Once("0", "d")).replayed
        assert ledger.next_job("tiny") == done
        fences: dict[str, int] = {}
        for job_id in (done, given_back, lost):
            claim = ledger.claim(job_id, "w", lease_seconds=30)
            assert isinstance(claim, Claim)
            token = Emission(job_id, claim.fence, TokenEvent(seq=1, token_id=1, text="x"))
            assert ledger.emit([token], lease_seconds=30) == [Reply.OK]
            assert ledger.end_probation(job_id, claim.fence, lease_seconds=30) is Reply.OK
            fences[job_id] = claim.fence
        event = DoneEvent(seq=2, finish_reason="stop", text="", usage=Usage(), metrics=JobMetrics())
        assert ledger.finish(Finish(done, fences[done], "tiny", event, (1,), "x")).reply is Reply.OK
        assert ledger.release(given_back, fences[given_back], "tiny").bell is not None
        assert ledger.cancel(cancelled) is JobState.CANCELLED
        redis.hset(keys.job(damaged), "attempts", "many")
        assert ledger.end_damaged(damaged) is not None
        assert Deaths(redis).certify("w", signal="SIGKILL", exit_code=None, out_of_memory=False) == [lost]
        ledger.await_answer("call", seconds=1)
        for _ in range(3):
            assert ledger.reaper_turn("w", seconds=0.001)
            ledger.reap()
            time.sleep(0.002)
        assert ledger.view(unfollowed).state is JobState.CANCELLED
        assert ledger.view(lost).history[0].how == "killed by SIGKILL"
        asyncio.run(_read(fresh.url, done, waiting))
        registry.leave("w")
        assert read_persistence(redis).why == "the server does not permit CONFIG GET"
    assert refused(fresh) == set()


async def _read(url: str, done: str, waiting: str) -> None:
    client = connect_async(url)
    reader = LedgerReader(client)
    await reader.check_version()
    assert len([event async for event in reader.events(done)]) == 2
    views = await reader.jobs()
    assert {done, waiting} < {view.id for view in views}
    await reader.queues([view for view in views if view.state is JobState.QUEUED])
    await reader.timeline(done)
    await reader.workers()
    await client.aclose()


def test_the_user_may_do_nothing_else(server: ProtectedServer) -> None:
    with connect(server.url) as redis:
        for command in (
            "KEYS *",
            "FLUSHALL",
            "CONFIG GET *",
            "CLIENT LIST",
            "GET other",
            "PUBLISH other x",
            "SORT m.x",
        ):
            with pytest.raises(Exception, match=r"[Nn]o permission"):
                redis.execute_command(*command.split())
    server.admin.acl_log_reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://woolly:{password}@{location}", "certificate verify failed"),
        ("redis://woolly:{password}@{location}", "Redis does not answer"),
        ("rediss://woolly:wrong@{location}?{tls}", "invalid username-password"),
        ("rediss://{location}?{tls}", "authenticate"),
        ("rediss://woolly:{password}@{location}?{tls}&ssl_ca_cert=x", "no parameter 'ssl_ca_cert'"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_line_without_the_password(
    server: ProtectedServer, url: str, said: str
) -> None:
    url = url.format(password=QUOTED_PASSWORD, location=server.location, tls=server.tls)
    ended = subprocess.run(
        [*WOOLLY, "worker", "--model", "demo", "--threads", "1", "--redis", url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (1, 2)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("woolly: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in ended.stderr
    assert QUOTED_PASSWORD not in ended.stderr
