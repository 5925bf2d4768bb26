"""The writer thread against a real server, with an engine that only takes notes."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from scripted import PROMPT, ScriptedEngine, cancelled, done, eventually, request, times, token

from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import PrefillProgress, SequenceReleased
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim
from woolly_worker.ledger.server import EmbeddedServer
from woolly_worker.queue.publisher import OutcomeKind, Publisher

LEASE = 30.0


@contextmanager
def publishing(
    ledger: Ledger, *, lease: float = LEASE, queued_steps: int = 16
) -> Iterator[tuple[Publisher, ScriptedEngine]]:
    publisher, engine = Publisher(ledger, lease_seconds=lease, queued_steps=queued_steps), ScriptedEngine()
    publisher.start(engine)
    try:
        yield publisher, engine
    finally:
        publisher.stop(2.0)


def claimed(ledger: Ledger, job_id: str = "j", **changes: object) -> Claim:
    ledger.submit(request(**changes), job_id=job_id)
    claim = ledger.claim(job_id, "w", lease_seconds=LEASE)
    assert isinstance(claim, Claim)
    return claim


def stream_ids(ledger: Ledger, job_id: str = "j") -> list[str]:
    return [str(entry) for entry, _ in ledger.client.xrange(keys.events(job_id))]


def test_a_job_is_written_step_by_step(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, engine):
        outcome = publisher.track(claimed(ledger))
        publisher.put([PrefillProgress("j", 1, 2, 3)])
        publisher.put([token("j", 1)])
        publisher.put([token("j", 2)])
        publisher.put([token("j", 3), done("j", 4, text=" end")])
        ended = outcome.result(5)
    assert ended.kind is OutcomeKind.FINISHED
    assert ended.state is JobState.SUCCEEDED
    view = ledger.view("j")
    assert view.result == ended.result
    assert view.result is not None
    assert view.result.text == " t1 t2 t3 end"
    assert view.result.token_ids == (101, 102, 103)
    assert view.result.metrics.batch_size_max == 2  # the engine's share
    assert view.result.metrics.total_seconds is not None  # the ledger's
    assert stream_ids(ledger) == ["1-0", "2-0", "3-0", "4-0"]
    assert engine.orders == []


def test_the_record_hears_once_how_long_the_prompt_is(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, _):
        claim = claimed(ledger)
        publisher.track(claim)
        publisher.count_prompt(claim, 3)
        publisher.put([PrefillProgress("j", 1, 2, 3)])
        eventually(lambda: ledger.client.hget(keys.job("j"), "prompt_tokens") == "3")
        ledger.client.hdel(keys.job("j"), "prompt_tokens")
        publisher.put([token("j", 1)])
        eventually(lambda: ledger.view("j").last_seq == 1)
    assert not ledger.client.hexists(keys.job("j"), "prompt_tokens")


def test_a_resumed_job_has_the_whole_text(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, _):
        outcome = publisher.track(claimed(ledger))
        publisher.put([token("j", 1), SequenceReleased("j", 1, times())])
        released = outcome.result(5)
        assert released.kind is OutcomeKind.RELEASED
        assert released.bell is not None
        assert released.bell.job_id == "j"
        claim = ledger.claim("j", "w", lease_seconds=LEASE)
        assert isinstance(claim, Claim)
        outcome = publisher.track(claim)
        publisher.put([token("j", 2, fence=2), done("j", 3, fence=2)])
        result = outcome.result(5).result
    assert result is not None
    assert (result.text, result.token_ids) == (" t1 t2", (101, 102))
    assert result.metrics.attempts == 2


def test_a_cancel_is_told_to_the_engine_once_and_ends_the_job(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, engine):
        outcome = publisher.track(claimed(ledger))
        ledger.cancel("j")
        publisher.put([token("j", 1)])
        publisher.put([token("j", 2)])
        eventually(lambda: engine.orders)
        publisher.put([cancelled("j", 3)])
        assert outcome.result(5).state is JobState.CANCELLED
    assert engine.orders == [("cancel", "j", 1)]
    assert ledger.view("j").state is JobState.CANCELLED
    assert stream_ids(ledger) == ["1-0", "2-0", "3-0"]


def test_a_job_that_was_taken_away_is_dropped_without_a_word(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, engine):
        taken, kept = publisher.track(claimed(ledger, "taken")), publisher.track(claimed(ledger, "kept"))
        ledger.client.hset(keys.job("taken"), "fence", 2)
        publisher.put([token("taken", 1), token("kept", 1)])
        publisher.put([done("taken", 2), done("kept", 2)])
        assert taken.result(5).kind is OutcomeKind.FENCED
        assert kept.result(5).kind is OutcomeKind.FINISHED
    assert engine.orders == [("drop", "taken", 1)]
    assert stream_ids(ledger, "taken") == []


def test_a_job_that_came_back_before_its_loss_was_noticed(ledger: Ledger) -> None:
    """As after a SIGSTOP past the lease: this worker claims the job again while its old sequence still runs."""
    with publishing(ledger) as (publisher, engine):
        old = publisher.track(claimed(ledger))
        ledger.client.hset(keys.job("j"), "lease_ms", 1)
        again = ledger.claim("j", "w", lease_seconds=LEASE)
        assert isinstance(again, Claim)
        new = publisher.track(again)
        publisher.put([token("j", 1), token("j", 1, fence=2)])
        assert old.result(5).kind is OutcomeKind.FENCED
        assert not new.done()
        publisher.put([token("j", 2), token("j", 2, fence=2), done("j", 3, fence=2)])
        result = new.result(5).result
    assert result is not None
    assert result.text == " t1 t2"
    assert engine.orders == [("drop", "j", 1)]
    assert stream_ids(ledger) == ["1-0", "2-0", "3-0"]


def test_a_silent_sequence_hears_that_its_job_is_claimed_anew(ledger: Ledger) -> None:
    with publishing(ledger, lease=0.3) as (publisher, engine):
        old = publisher.track(claimed(ledger))
        ledger.client.hset(keys.job("j"), "lease_ms", 1)
        again = ledger.claim("j", "w", lease_seconds=LEASE)
        assert isinstance(again, Claim)
        publisher.track(again)
        time.sleep(0.15)
        publisher.put([token("j", 1, fence=2)])
        assert old.result(5).kind is OutcomeKind.FENCED
    assert engine.orders == [("drop", "j", 1)]


def test_a_stream_that_lost_tokens_goes_back_to_the_queue(ledger: Ledger) -> None:
    with publishing(ledger) as (publisher, engine):
        outcome = publisher.track(claimed(ledger))
        publisher.put([token("j", 1)])
        eventually(lambda: stream_ids(ledger))
        ledger.client.hset(keys.job("j"), "seq", 0)  # as after a crash of the server: the last second is gone
        ledger.client.delete(keys.events("j"))
        publisher.put([token("j", 2)])
        assert outcome.result(5).kind is OutcomeKind.RELEASED
    assert engine.orders == [("drop", "j", 1)]
    again = ledger.claim("j", "w2", lease_seconds=LEASE)
    assert isinstance(again, Claim)
    assert again.token_ids == ()


def test_steps_of_others_renew_the_lease_of_a_silent_job(ledger: Ledger) -> None:
    with publishing(ledger, lease=0.3) as (publisher, engine):
        publisher.track(claimed(ledger, "silent"))
        publisher.track(claimed(ledger, "busy"))
        ledger.client.hset(keys.job("silent"), "lease_ms", 1)
        ledger.cancel("silent")
        time.sleep(0.15)
        publisher.put([token("busy", 1)])
        eventually(lambda: engine.orders == [("cancel", "silent", 1)])
        assert int(ledger.client.hget(keys.job("silent"), "lease_ms") or 0) > 1


def test_a_step_that_cannot_be_written_costs_its_jobs_only(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with publishing(ledger) as (publisher, engine):
        broken, fine = publisher.track(claimed(ledger, "broken")), publisher.track(claimed(ledger, "fine"))
        ledger.client.delete(keys.events("broken"))
        ledger.client.set(keys.events("broken"), "not a stream")
        publisher.put([token("broken", 1)])
        assert broken.result(5).kind is OutcomeKind.ABANDONED
        publisher.put([token("fine", 1), done("fine", 2)])
        assert fine.result(5).kind is OutcomeKind.FINISHED
    assert engine.orders == [("drop", "broken", 1)]


def test_redis_away_holds_the_engine_and_loses_nothing(tmp_path: Path) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        closing(connect(server.url)) as client,
        closing(connect(server.url, timeout_seconds=0.2)) as writer,
    ):
        ledger = Ledger(client)
        with publishing(Ledger(writer), queued_steps=2) as (publisher, _):
            outcome = publisher.track(claimed(ledger))
            os.kill(server.pid, signal.SIGSTOP)
            put: list[int] = []

            def engine_thread() -> None:
                for seq in range(1, 31):
                    publisher.put([token("j", seq)])
                    put.append(seq)
                publisher.put([done("j", 31)])

            thread = threading.Thread(target=engine_thread)
            thread.start()
            time.sleep(1.0)
            assert len(put) <= 12  # the queue, and what the writer holds in its hands
            os.kill(server.pid, signal.SIGCONT)
            assert outcome.result(10).kind is OutcomeKind.FINISHED
            thread.join()
        assert stream_ids(ledger) == [f"{seq}-0" for seq in range(1, 32)]


def test_giving_up_frees_everybody(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, closing(connect(server.url, timeout_seconds=0.1)) as client:
        ledger = Ledger(client)
        claim, another = claimed(ledger), claimed(ledger, "another")
        publisher = Publisher(ledger, lease_seconds=LEASE, queued_steps=1)
        publisher.start(ScriptedEngine())
        outcome = publisher.track(claim)
        server.stop()
        blocked = threading.Thread(target=lambda: [publisher.put([token("j", seq)]) for seq in range(1, 40)])
        blocked.start()
        time.sleep(0.3)
        publisher.stop(0.1)
        assert outcome.result(5).kind is OutcomeKind.ABANDONED
        assert publisher.track(another).result(5).kind is OutcomeKind.ABANDONED
        blocked.join(5)
        assert not blocked.is_alive()


def test_nothing_published_carries_the_prompt(ledger: Ledger) -> None:
    with closing(ledger.client.pubsub()) as pubsub, publishing(ledger) as (publisher, _):
        pubsub.psubscribe("*")
        outcome = publisher.track(claimed(ledger))
        publisher.put([token("j", 1), done("j", 2)])
        outcome.result(5)
        heard = []
        while (message := pubsub.get_message(timeout=0.2)) is not None:
            heard.append(str(message["data"]))
    assert len(heard) >= 4
    assert not any(PROMPT in data for data in heard)
