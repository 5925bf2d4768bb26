"""The doorbell: off the caller's path, bounded, and lost bells are counted."""

import time
from collections import Counter

from harness import wait_for
from scripted_worker import MODEL, ScriptedWorker

from woolly_api.doorbell import Doorbell
from woolly_worker.ledger import keys
from woolly_worker.ledger.records import Bell
from woolly_worker.ledger.server import free_port


def bell(number: int, model: str = MODEL) -> Bell:
    return Bell(f"job{number}", model, 1)


def test_a_bell_lands_in_the_queue_of_its_model(redis_url: str, worker: ScriptedWorker) -> None:
    counts: Counter[str] = Counter()
    doorbell = Doorbell(redis_url, capacity=10, count=lambda outcome: counts.update([outcome]))
    doorbell.ring(bell(1))
    doorbell.ring(bell(2, "another"))
    doorbell.close()
    assert counts == {"rung": 2}
    client = worker.ledger.client
    assert client.llen(keys.bells(MODEL)) == client.llen(keys.bells("another")) == 1
    assert "job1" in client.lindex(keys.bells(MODEL), 0)  # type: ignore[operator]


def test_without_a_broker_ringing_still_returns_at_once() -> None:
    counts: Counter[str] = Counter()
    url = f"redis://127.0.0.1:{free_port()}/0"
    doorbell = Doorbell(url, capacity=3, count=lambda outcome: counts.update([outcome]))
    started = time.monotonic()
    for number in range(50):
        doorbell.ring(bell(number))
    assert time.monotonic() - started < 1
    doorbell.close(timeout_seconds=0.2)
    # Every bell is counted and none is forgotten, whether it was tried, waited, or found the queue full.
    wait_for(lambda: counts["failed"] + counts["dropped"] == 50, 30)
    assert counts["failed"] >= 1
    assert counts["rung"] == 0


def test_a_closed_doorbell_drops(redis_url: str) -> None:
    outcomes: list[str] = []
    doorbell = Doorbell(redis_url, capacity=3, count=outcomes.append)
    doorbell.close()
    doorbell.ring(bell(1))
    assert outcomes == ["dropped"]
