"""Who is next: tenants in turn, priority 0 first, and ahead of them those who have been running before."""

import random
from zlib import crc32

import pytest

from woolly_worker.contract.jobs import JobRequest
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import script_text
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim

MODEL = "tiny"


def submit(ledger: Ledger, name: str, *, priority: int = 5, tenant: str = "") -> str:
    """`name` is the id; its first letter the tenant's name, unless it is given."""
    request = JobRequest(model=MODEL, prompt="x", priority=priority, tenant=tenant or name[0])
    return ledger.submit(request, job_id=name).job_id


def jobs_before(ledger: Ledger, job_id: str) -> int | None:
    place = ledger.client.register_script(script_text("place"))
    found: int | None = place(keys=[keys.job(job_id), keys.lanes(MODEL)], args=[job_id])
    return found


def take(ledger: Ledger) -> Claim | None:
    job_id = ledger.next_job(MODEL)
    if job_id is None:
        return None
    claim = ledger.claim(job_id, "w", lease_seconds=30)
    assert isinstance(claim, Claim)
    return claim


def order(ledger: Ledger) -> str:
    taken = []
    while (claim := take(ledger)) is not None:
        taken.append(claim.job_id)
    return " ".join(taken)


def test_one_tenant_is_served_in_the_order_of_arrival(ledger: Ledger) -> None:
    for name in ("a3", "a1", "a2"):
        submit(ledger, name)
    assert order(ledger) == "a3 a1 a2"
    assert ledger.next_job(MODEL) is None


def test_tenants_take_turns(ledger: Ledger) -> None:
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        submit(ledger, name)
    assert order(ledger) == "a1 b1 c1 a2 b2 a3 a4"


def test_a_backlog_delays_another_tenant_by_one_turn(ledger: Ledger) -> None:
    """Also one whose name has the same hash, or the other's name as its beginning."""
    twin = next(name for i in range(1000) if crc32((name := f"t{i}").encode()) % 8 == crc32(b"a") % 8)
    for i in range(300):
        submit(ledger, f"a{i}")
    assert take(ledger) is not None
    submit(ledger, "first", tenant=twin)
    submit(ledger, "second", tenant="a#5#a")
    assert [claim.job_id for _ in range(4) if (claim := take(ledger))] == ["a1", "first", "second", "a2"]


def test_priorities_come_first_and_have_rounds_of_their_own(ledger: Ledger) -> None:
    for name, priority in (("a1", 5), ("a2", 5), ("b1", 5), ("a3", 9), ("c1", 0), ("c2", 0), ("a4", 0), ("b2", 9)):
        submit(ledger, name, priority=priority)
    assert order(ledger) == "c1 a4 c2 a1 b1 a2 a3 b2"


def test_a_released_job_goes_before_its_priority_and_uses_no_turn(ledger: Ledger) -> None:
    for name in ("a1", "b1", "a2"):
        submit(ledger, name)
    submit(ledger, "c1", priority=0)
    claims = [take(ledger), take(ledger)]
    assert [claim.job_id for claim in claims if claim] == ["c1", "a1"]
    submit(ledger, "d1", priority=0)
    for claim in claims:
        assert claim is not None
        ledger.release(claim.job_id, claim.fence, MODEL)
    assert order(ledger) == "c1 d1 a1 b1 a2"


def test_a_job_whose_worker_was_lost_goes_before_its_priority(ledger: Ledger) -> None:
    for name in ("a1", "a2", "b1"):
        submit(ledger, name)
    assert take(ledger) is not None
    ledger.client.hset(keys.job("a1"), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {"a1": 1})
    assert [bell.job_id for bell in ledger.reap().bells] == ["a1"]
    assert order(ledger) == "a1 b1 a2"


def test_a_cancelled_job_gives_its_turn_to_the_next_of_its_tenant(ledger: Ledger) -> None:
    for name in ("a1", "a2", "b1", "b2", "c1"):
        submit(ledger, name)
    ledger.cancel("a1")
    ledger.cancel("c1")
    assert order(ledger) == "a2 b1 b2"


def test_an_id_that_nobody_can_claim_holds_up_nobody(ledger: Ledger) -> None:
    for name in ("a1", "a2", "b1"):
        submit(ledger, name)
    ledger.client.delete(keys.job("a1"))
    assert ledger.next_job(MODEL) == "a2"
    assert ledger.next_job(MODEL, passing="a2") == "b1"
    assert ledger.next_job(MODEL, passing="a2") == "b1"
    ledger.client.zadd(keys.OPEN_JOBS, {"a2": 1})
    assert ledger.reap().n_jobs == 0
    assert order(ledger) == "b1 a2"  # the reaper has found nothing wrong with it


def test_two_workers_may_see_the_same_job_and_one_gets_it(ledger: Ledger) -> None:
    submit(ledger, "a1")
    assert ledger.next_job(MODEL) == ledger.next_job(MODEL) == "a1"
    assert isinstance(ledger.claim("a1", "w1", lease_seconds=30), Claim)
    assert ledger.next_job(MODEL) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_place_of_a_job_is_how_many_are_taken_before_it(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    for i in range(40):
        submit(ledger, f"{chance.choice('aaabcd')}{i}", priority=chance.choice((0, 5, 5, 9)))
        if chance.random() < 0.2:
            claim = take(ledger)
            if claim is not None and chance.random() < 0.5:
                ledger.release(claim.job_id, claim.fence, MODEL)
    waiting = map(str, ledger.client.zrange(keys.OPEN_JOBS, 0, -1))
    foreseen = {i: place for i in waiting if (place := jobs_before(ledger, i)) is not None}
    taken = order(ledger).split()
    assert foreseen == {job_id: place for place, job_id in enumerate(taken)}
    assert jobs_before(ledger, taken[0]) is None
    assert jobs_before(ledger, "never-there") is None


def test_nothing_is_left_of_an_empty_queue(ledger: Ledger) -> None:
    for name in ("a1", "b1", "c1"):
        submit(ledger, name)
    ledger.cancel("c1")
    claim = take(ledger)
    assert claim is not None
    ledger.release(claim.job_id, claim.fence, MODEL)
    order(ledger)
    assert ledger.client.keys(f"{keys.lanes(MODEL)}#*") == []


def test_a_name_that_looks_like_the_lane_of_nobody_gets_no_turn_of_its_own(ledger: Ledger) -> None:
    for n in range(3):
        submit(ledger, f"g{n}", tenant="good")
    for n in range(3):
        submit(ledger, f"e{n}", tenant="evil#")
    assert order(ledger) == "g0 e0 g1 e1 g2 e2"


def test_who_has_been_running_and_was_put_aside_comes_back_ahead_of_the_others(ledger: Ledger) -> None:
    submit(ledger, "a1")
    claim = take(ledger)
    assert claim is not None
    ledger.release("a1", claim.fence, MODEL)
    submit(ledger, "b1")
    assert ledger.next_job(MODEL, passing="a1") == "b1"
    ledger.client.zadd(keys.OPEN_JOBS, {"a1": 1})
    ledger.reap()
    assert order(ledger) == "a1 b1"


def test_bells_of_jobs_that_were_cancelled_as_they_waited_do_not_pile_up(ledger: Ledger) -> None:
    ledger.client.hset(keys.MODELS, MODEL, '{"name": "tiny", "architecture": "llama", "n_ctx": 64}')
    ledger.client.lpush(keys.bells(MODEL), *range(3000))
    submit(ledger, "a1")
    ledger.reap()
    assert ledger.client.llen(keys.bells(MODEL)) == 1001
