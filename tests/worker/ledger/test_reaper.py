"""A reaper's turns against a real server."""

import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from scripted import MODEL, eventually, request

from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry
from woolly_worker.ledger.reaper import Reaper
from woolly_worker.ledger.records import Bell
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.telemetry import configure_logging, log_job, log_lost


def lost(ledger: Ledger) -> str:
    """A job whose worker has been silent for long."""
    job_id = ledger.submit(request()).job_id
    ledger.claim(job_id, "dead", lease_seconds=30)
    ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
    return job_id


def test_lost_bells_and_lost_workers_are_rung_for(redis_url: str) -> None:
    rung: list[Bell] = []
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, bell_seconds=0.02)
        ModelRegistry(client).announce(ModelCard(name=MODEL, architecture="scripted", n_ctx=64))
        lost_bell = ledger.submit(request()).job_id
        lost_worker = ledger.submit(request(priority=1)).job_id
        ledger.claim(lost_worker, "dead", lease_seconds=0.02)
        reaper = Reaper(ledger, rung.append, "me", turn_seconds=0.05)
        reaper.start()
        try:
            eventually(lambda: {bell.job_id for bell in rung} == {lost_bell, lost_worker})
        finally:
            reaper.stop()


def test_more_than_one_batch_is_done_in_one_turn(ledger: Ledger) -> None:
    rung: list[Bell] = []
    for _ in range(120):
        lost(ledger)
    Reaper(ledger, rung.append, "me").turn()
    assert len(rung) == 120


def test_only_one_reaper_has_the_turn(ledger: Ledger) -> None:
    rung: list[Bell] = []
    lost(ledger)
    assert ledger.reaper_turn("another", seconds=30)
    Reaper(ledger, rung.append, "me").turn()
    assert rung == []


def test_it_outlives_an_absence_of_redis(tmp_path: Path) -> None:
    rung: list[Bell] = []
    with EmbeddedServer(tmp_path) as server, closing(connect(server.url, timeout_seconds=0.1)) as client:
        ledger = Ledger(client)
        reaper = Reaper(ledger, rung.append, "me", turn_seconds=0.05)
        os.kill(server.pid, signal.SIGSTOP)
        reaper.start()
        time.sleep(0.5)
        os.kill(server.pid, signal.SIGCONT)
        lost(ledger)
        eventually(lambda: rung)
        reaper.stop()


def test_a_job_that_the_reaper_ends_has_its_line(
    redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, on_closed=log_job)
        late = ledger.submit(request(deadline_seconds=0.01)).job_id
        time.sleep(0.02)
        Reaper(ledger, lambda bell: None, "me").turn()
    (line,) = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["event"], line["job_id"], line["state"]) == ("job", late, "expired")


def test_a_lost_worker_is_named_in_one_line(
    redis_url: str, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")
    with closing(connect(redis_url)) as client:
        ledger = Ledger(client, on_lost=log_lost)
        reaper = Reaper(ledger, lambda bell: None, "me", turn_seconds=0.001)
        # When the reaper notices one loss, and a worker that asks for the job another
        first = lost(ledger)
        reaper.turn()
        second = lost(ledger)
        ledger.claim(second, "alive", lease_seconds=30)
        reaper.turn()
    # Then each has one line
    lines = [line for line in map(json.loads, capfd.readouterr().err.splitlines()) if line["event"] == "worker lost"]
    told = [(line["job_id"], line["worker_id"], line["attempt"]) for line in lines]
    assert told == [(first, "dead", 1), (second, "dead", 1)]


def test_a_broken_record_is_named_in_the_log(
    ledger: Ledger, capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")
    broken = ledger.submit(request()).job_id
    ledger.client.hset(keys.job(broken), "lane", "not a number")
    ledger.client.zadd(keys.OPEN_JOBS, {broken: 1})
    Reaper(ledger, lambda bell: None, "me").turn()
    assert broken in capfd.readouterr().err
