"""Through the front door: `woolly up` with its real server, Celery worker, API and Flower, real HTTP, real signals.

Nothing is replaced. Where a test needs a job in the middle of its life, it stops the process of the worker (SIGSTOP),
so that a fast machine does not finish first.
"""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from cluster import WOOLLY, Cluster, Process, environment, running_cluster, wait_for

from woolly_api.client import JobInfo, WoollyClient
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, SamplingParams
from woolly_worker.contract.states import JobState
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.models import ModelRegistry

PROMPT = "Once upon a time there was a little fox"
LONG = SamplingParams(max_tokens=400, temperature=0.8, seed=11, ignore_eos=True)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[WoollyClient]:
    with cluster.client() as client:
        yield client


def submit(client: WoollyClient, sampling: SamplingParams, prompt: str = PROMPT) -> JobInfo:
    return client.submit(JobRequest(model="woolly-demo", prompt=prompt, sampling=sampling))


def read(client: WoollyClient, job_id: str) -> tuple[list[TokenEvent], DoneEvent | FailedEvent]:
    tokens: list[TokenEvent] = []
    for event in client.events(job_id):
        if isinstance(event, TokenEvent):
            tokens.append(event)
        elif not isinstance(event, StateEvent):
            return tokens, event
    raise AssertionError("the stream has no end")


def text_of(tokens: list[TokenEvent], end: DoneEvent | FailedEvent) -> str:
    assert isinstance(end, DoneEvent), end
    return "".join(token.text for token in tokens) + end.text


@contextmanager
def paused_in_the_middle(cluster: Cluster, client: WoollyClient) -> Iterator[tuple[JobInfo, int]]:
    """A running job with some tokens in its stream, and the pid of its worker, which stands still."""
    for _ in range(5):
        job = submit(client, LONG)
        next(event for event in client.events(job.id) if isinstance(event, TokenEvent))
        with closing(connect(cluster.redis_url)) as redis_client:
            owner = redis_client.hget(keys.job(job.id), "owner")
        pid = next((beat.pid for beat in cluster.workers() if beat.worker_id == owner), None)
        if pid is None:
            continue
        os.kill(pid, signal.SIGSTOP)
        try:
            if client.get(job.id).state is JobState.RUNNING:
                yield job, pid
                return
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    raise AssertionError("every job ended before its worker could be stopped")


def test_a_job_says_what_woolly_generate_says(client: WoollyClient) -> None:
    greedy = SamplingParams(max_tokens=48, temperature=0)
    alone = subprocess.run(
        [*WOOLLY, "generate", "-m", "demo", PROMPT, "--temperature", "0", "--max-tokens", "48"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert alone.returncode == 0, alone.stderr
    job = submit(client, greedy)
    tokens, end = read(client, job.id)

    assert text_of(tokens, end) == alone.stdout
    assert [token.seq for token in tokens] == list(range(1, len(tokens) + 1))
    result = client.wait(job.id).result
    assert result is not None
    assert result.text == alone.stdout
    assert result.usage.completion_tokens == len(tokens)
    metrics = result.metrics
    assert metrics.time_to_first_token_seconds is not None
    assert metrics.time_to_first_token_seconds > 0
    assert metrics.decode_tokens_per_second is not None
    assert metrics.attempts == 1


def test_many_jobs_at_once_each_say_what_they_say_alone(client: WoollyClient) -> None:
    def sampling(seed: int) -> SamplingParams:
        return SamplingParams(max_tokens=60, temperature=1, seed=seed)

    together = [submit(client, sampling(seed), f"{PROMPT} {seed}") for seed in range(12)]
    texts = [text_of(*read(client, job.id)) for job in together]
    sizes = [client.wait(job.id).result.metrics.batch_size_max for job in together]  # type: ignore[union-attr]
    assert max(size or 0 for size in sizes) > 1
    for seed in (0, 5, 11):
        alone = submit(client, sampling(seed), f"{PROMPT} {seed}")
        assert text_of(*read(client, alone.id)) == texts[seed]


def test_a_cancelled_job_stops(cluster: Cluster, client: WoollyClient) -> None:
    for _ in range(5):
        with paused_in_the_middle(cluster, client) as (job, _):
            assert client.cancel(job.id).cancel_requested
        tokens, end = read(client, job.id)
        if isinstance(end, FailedEvent):
            break  # else the engine was through with it before it stood still, and only the writing was left
    assert isinstance(end, FailedEvent)
    assert end.state is JobState.CANCELLED
    assert len(tokens) < 400


def test_a_killed_worker_changes_nothing_but_the_time(cluster: Cluster, client: WoollyClient) -> None:
    undisturbed = text_of(*read(client, submit(client, LONG).id))
    second = Process("worker", "--model", "demo", "--redis", cluster.redis_url)
    try:
        wait_for(lambda: len(cluster.workers()) == 2, 120, lambda: second.output)
        with paused_in_the_middle(cluster, client) as (job, pid):
            events = client.events(job.id)
            first = next(event for event in events if isinstance(event, TokenEvent))
            os.kill(pid, signal.SIGKILL)
        rest = list(events)  # the same reader, which saw the beginning before the kill
        tokens = [first, *(event for event in rest if isinstance(event, TokenEvent))]
        end = rest[-1]
        assert isinstance(end, DoneEvent)
        assert [token.seq for token in tokens] == list(range(1, len(tokens) + 1))
        assert text_of(tokens, end) == undisturbed
        assert end.metrics.attempts == 2
        assert end.metrics.crashes == 1
    finally:
        second.stop()


def test_a_killed_part_is_started_again(cluster: Cluster, client: WoollyClient) -> None:
    # The last words of a worker that another test killed are kept for a while.
    wait_for(lambda: [psutil.pid_exists(worker.pid) for worker in cluster.workers()] == [True], 60)
    before = cluster.workers()[0].pid
    os.kill(before, signal.SIGKILL)
    cluster.wait_for_line("^woolly: worker was killed by SIGKILL; starting it again", 20)
    wait_for(lambda: [beat.pid for beat in cluster.workers() if beat.pid != before], 60)
    assert isinstance(read(client, submit(client, SamplingParams(max_tokens=4)).id)[1], DoneEvent)


def test_flower_shows_the_task_and_not_the_prompt(cluster: Cluster, client: WoollyClient) -> None:
    secret = "zanzibar"
    job = submit(client, SamplingParams(max_tokens=8, ignore_eos=True), f"The word is {secret}")
    assert client.wait(job.id).state is JobState.SUCCEEDED

    def tasks() -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{cluster.flower_url}/api/tasks", timeout=5) as response:
            return str(response.read().decode())

    wait_for(lambda: json.loads(tasks()).get(f"{job.id}.1", {}).get("state") == "SUCCESS")
    shown = tasks()
    task = json.loads(shown)[f"{job.id}.1"]
    assert job.id in task["args"]
    assert "tokens" in task["result"]
    assert secret not in shown
    # Nor does anybody's log know it.
    assert secret not in cluster.output


def test_a_cluster_that_is_stopped_and_started_goes_on(tmp_path: Path) -> None:
    # given: a job that has ended, and many at every point of their lives: one alone might end before the stop is heard
    with running_cluster(str(DEMO_MODEL), tmp_path, WOOLLY_DRAIN_SECONDS="0") as cluster, cluster.client() as client:
        pids = children_of(cluster.pid)
        assert len(pids) == 4
        ended = submit(client, SamplingParams(max_tokens=16, temperature=0))
        text = text_of(*read(client, ended.id))
        with paused_in_the_middle(cluster, client) as (running, _):
            jobs = [running, *(submit(client, LONG) for _ in range(60))]
            # when: it is stopped, with no patience for running jobs
            cluster.signal(signal.SIGINT)
        # then: it says so with its exit code and leaves no process
        assert cluster.wait() == 0
        wait_for(lambda: not any(alive(pid) for pid in pids))
    # when: it is started again
    with running_cluster(str(DEMO_MODEL), tmp_path) as cluster, cluster.client() as client:
        # then: the one is still there, and the others go on where they were
        assert text_of(*read(client, ended.id)) == text
        texts, ends = set(), []
        for job in jobs:
            tokens, end = read(client, job.id)
            assert isinstance(end, DoneEvent)
            assert [token.seq for token in tokens] == list(range(1, 401))
            texts.add(text_of(tokens, end))
            ends.append(end)
        assert len(texts) == 1  # they are the same request
        assert {end.metrics.crashes for end in ends} == {0}
        assert 2 in {end.metrics.attempts for end in ends}
        # and a cluster that is killed leaves no process either
        pids = children_of(cluster.pid)
        cluster.signal(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in pids))


def test_one_log_stream_of_objects_with_a_line_per_job(tmp_path: Path) -> None:
    options = ["--state-dir", str(tmp_path), "--port", "0", "--no-flower", "--log-format", "json"]
    up = Process("up", "--model", "demo", *options)
    try:
        up.wait_for_line("ready; Ctrl-C stops")
        with WoollyClient(up.wait_for_line(r'"API +(http://[^ ]+) ')[1]) as client:
            job_id = submit(client, SamplingParams(max_tokens=4)).id
            assert client.wait(job_id).state is JobState.SUCCEEDED
            with closing(connect(up.wait_for_line(r'"Redis +(redis://[^"]+)"')[1])) as redis_client:
                (beat,) = ModelRegistry(redis_client).workers()
            os.kill(beat.pid, signal.SIGKILL)
            up.wait_for_line("worker started again")
    finally:
        assert up.stop() == 0
    lines = [json.loads(line) for line in up.lines]
    assert {line["program"] for line in lines} == {"woolly", "server", "worker", "api"}
    (job,) = (line for line in lines if line["event"] == "job")
    assert (job["program"], job["job_id"], job["completion_tokens"]) == ("worker", job_id, 4)
    (death,) = (line for line in lines if line["event"] == "the worker died")
    assert (death["program"], death["signal"], death["worker_id"]) == ("worker", "SIGKILL", beat.worker_id)
    (told,) = (line for line in lines if "starting it again" in line["event"])
    assert (told["program"], told["level"]) == ("woolly", "warning")
    assert told["event"] == "worker was killed by SIGKILL; starting it again in 0.5 s"


def test_the_demo_runs_one_job_and_ends() -> None:
    result = subprocess.run([*WOOLLY, "demo", "--once"], env=environment(), capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"[a-z]{3,}", result.stdout)) > 20
    assert re.search(r"decode_tokens_per_second +[\d,.]+", result.stdout)
    assert re.search(r"^API +http://127\.0\.0\.1:\d+", result.stdout, re.MULTILINE)
    assert re.search(r"^Flower +http://127\.0\.0\.1:\d+", result.stdout, re.MULTILINE)


def test_the_demo_ends_cleanly_on_ctrl_c() -> None:
    demo = Process("demo")
    demo.wait_for_line("Ctrl-C stops")
    pids = children_of(demo.pid)
    demo.signal(signal.SIGINT)
    assert demo.wait() == 0
    assert not any(alive(pid) for pid in pids)
    assert "Traceback" not in demo.output


def children_of(pid: int) -> list[int]:
    """Direct children, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("test_type", ["token_generation", "matrix_multiplication", "memory_allocation"])
def test_a_live_worker_measures_itself(cluster: Cluster, test_type: str) -> None:
    response = httpx.post(
        f"{cluster.api_url}/api/v1/performance/benchmark", json={"test_type": test_type, "iterations": 4}, timeout=100
    )
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["test_type"], body["iterations"], body["model"]) == (test_type, 4, "woolly-demo")
    assert body["average_time_ms"] * 4 == pytest.approx(body["total_time_ms"])
    assert body["speedup_vs_baseline"] > 0
    assert (body["tokens_per_second"] is not None) == (test_type == "token_generation")
