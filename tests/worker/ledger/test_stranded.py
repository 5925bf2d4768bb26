"""A job with tokens of a model that nobody serves: when it is given up, and when it waits."""

import pytest

from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import STRAND_SECONDS, Ledger
from woolly_worker.ledger.records import Claim, ClaimOutcome, Emission, Refusal

OLD, NEW = "old-kv_f16", "new-kv_f16"


def claim(ledger: Ledger, recipe: str) -> Claim | Refusal:
    return ledger.claim("j", "w", lease_seconds=30, recipe=recipe)


@pytest.fixture
def begun(ledger: Ledger) -> Ledger:
    """A queued job that has a token of OLD."""
    ledger.submit(JobRequest(model="tiny", prompt="x"), job_id="j")
    claimed = claim(ledger, OLD)
    assert isinstance(claimed, Claim)
    ledger.emit([Emission("j", claimed.fence, TokenEvent(seq=1, token_id=1, text="t"))], lease_seconds=30)
    ledger.release("j", claimed.fence, "tiny")
    return ledger


def unserved_ms(ledger: Ledger) -> int:
    return int(str(ledger.client.hget(keys.job("j"), "unserved_ms")))


def refuse(ledger: Ledger) -> None:
    assert claim(ledger, NEW) == Refusal("j", ClaimOutcome.OTHER_RECIPE)


def age(ledger: Ledger, seconds: float) -> None:
    ledger.client.hset(keys.job("j"), "unserved_ms", unserved_ms(ledger) - int(seconds * 1000))


def test_it_is_given_up_when_nobody_could_serve_it_for_long(begun: Ledger) -> None:
    assert not begun.strand("j", {NEW})  # nobody was asked
    refuse(begun)
    assert not begun.strand("j", {NEW})
    age(begun, STRAND_SECONDS - 5)
    first = unserved_ms(begun)
    refuse(begun)
    assert unserved_ms(begun) == first
    assert not begun.strand("j", {NEW})
    age(begun, 5)
    assert begun.strand("j", {NEW})
    view = begun.view("j")
    assert view.state is JobState.FAILED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "model_replaced"


def test_the_time_begins_anew_after_a_claim(begun: Ledger) -> None:
    refuse(begun)
    age(begun, STRAND_SECONDS)
    claimed = claim(begun, OLD)
    assert isinstance(claimed, Claim)
    begun.release("j", claimed.fence, "tiny")
    refuse(begun)
    assert not begun.strand("j", {NEW})


def test_the_time_begins_anew_while_somebody_who_could_is_alive(begun: Ledger) -> None:
    refuse(begun)
    age(begun, STRAND_SECONDS)
    assert not begun.strand("j", {OLD, NEW})
    refuse(begun)
    assert not begun.strand("j", {NEW})


def test_what_is_no_time_is_written_anew(begun: Ledger) -> None:
    begun.client.hset(keys.job("j"), "unserved_ms", "x")
    assert not begun.strand("j", {NEW})
    refuse(begun)
    assert unserved_ms(begun) > 1
