"""Who killed the worker: history, probation, conviction and death certificates, against a real server."""

import asyncio

import pytest
from probation import MOST_DOUBLINGS, PROBATION_TOKENS

from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobRequest, JobView
from woolly_worker.contract.losses import UNKNOWN
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect_async
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.endings import Endings
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.reader import LedgerReader
from woolly_worker.ledger.records import Claim, ClaimOutcome, Emission, Refusal, Reply

LEASE = 30.0


def submit(ledger: Ledger) -> str:
    return ledger.submit(JobRequest(model="tiny", prompt="x")).job_id


def claim(ledger: Ledger, job_id: str, owner: str = "w", lease: float = LEASE, *, alone: bool = False) -> Claim:
    claimed = ledger.claim(job_id, owner, lease_seconds=lease, alone=alone)
    assert isinstance(claimed, Claim), claimed
    return claimed


def emit_token(ledger: Ledger, job_id: str, fence: int, seq: int) -> None:
    event = TokenEvent(seq=seq, token_id=seq, text="t")
    assert ledger.emit([Emission(job_id, fence, event)], lease_seconds=LEASE) == [Reply.OK]


def expire_lease(ledger: Ledger, job_id: str) -> None:
    """As if the worker had been silent for long."""
    ledger.client.hset(keys.job(job_id), "lease_ms", 1)
    ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})


def lose(ledger: Ledger, job_id: str, owner: str, *, alone: bool = False, n_tokens: int = 0) -> Claim:
    """A claim whose worker is lost, and the reaper's look at it."""
    claimed = claim(ledger, job_id, owner, alone=alone)
    for seq in range(claimed.last_seq + 1, claimed.last_seq + n_tokens + 1):
        emit_token(ledger, job_id, claimed.fence, seq)
    expire_lease(ledger, job_id)
    ledger.reap()
    return claimed


def poison_of(view: JobView) -> dict[str, object]:
    assert view.state is JobState.FAILED
    assert view.result is not None
    assert view.result.error is not None
    assert view.result.error.code == "poison_job"
    return view.result.error.details


def test_the_third_loss_alone_convicts_and_the_history_is_kept(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0", n_tokens=2)
    lose(ledger, job_id, "w1", n_tokens=1)
    assert lose(ledger, job_id, "w2", alone=True).alone_until == 3 + PROBATION_TOKENS
    view = ledger.view(job_id)
    assert (view.state, view.crashes, view.attempts) == (JobState.FAILED, 3, 3)
    assert [(loss.worker, loss.attempt, loss.tokens, loss.alone) for loss in view.history] == [
        ("w0", 1, 2, False),
        ("w1", 2, 3, False),
        ("w2", 3, 3, True),
    ]
    assert {loss.how for loss in view.history} == {UNKNOWN}
    assert poison_of(view) == {"history": [loss.model_dump(exclude_none=True) for loss in view.history]}
    assert view.result is not None
    assert view.result.metrics.crashes == 3


def test_losses_in_company_never_convict(ledger: Ledger) -> None:
    job_id = submit(ledger)
    for i in range(10):
        claimed = claim(ledger, job_id, f"w{i}", alone=True)
        ledger.end_probation(job_id, claimed.fence, lease_seconds=LEASE)
        expire_lease(ledger, job_id)
        ledger.reap()
    view = ledger.view(job_id)
    assert (view.state, view.crashes, len(view.history)) == (JobState.QUEUED, 10, 10)


def test_a_suspect_is_claimed_by_nobody_who_computes_others(ledger: Ledger) -> None:
    """And what its claim alone does to the worker convicts it, before anything of it was read."""
    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    lose(ledger, job_id, "w1")
    for _ in range(5):
        assert ledger.claim(job_id, "w2", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.SUSPECT)
    view = ledger.view(job_id)
    assert (view.state, view.attempts, view.crashes) == (JobState.QUEUED, 2, 2)
    assert ledger.next_job("tiny") == job_id  # it keeps its place
    lose(ledger, job_id, "w2", alone=True)
    assert poison_of(ledger.view(job_id))


def test_a_claim_that_finds_the_lease_over_leaves_a_suspect_waiting(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    claim(ledger, job_id, "w1")
    expire_lease(ledger, job_id)
    assert ledger.claim(job_id, "w2", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.SUSPECT)
    assert ledger.view(job_id).crashes == 2
    assert claim(ledger, job_id, "w2", alone=True).crashes == 2


def test_alone_before_it_is_suspected_convicts_nobody(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0", alone=True)
    lose(ledger, job_id, "w1", alone=True)
    view = ledger.view(job_id)
    assert (view.state, [loss.alone for loss in view.history]) == (JobState.QUEUED, [False, False])


def test_a_claim_finds_the_conviction_when_no_reaper_did(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    lose(ledger, job_id, "w1")
    claim(ledger, job_id, "w2", alone=True)
    expire_lease(ledger, job_id)
    assert ledger.claim(job_id, "w3", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.POISON)
    assert poison_of(ledger.view(job_id))


def test_a_conviction_outlives_a_closer_that_dies(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    lose(ledger, job_id, "w1")
    with monkeypatch.context() as patch:
        patch.setattr(Endings, "close", lambda *_: False)
        lose(ledger, job_id, "w2", alone=True)
    assert ledger.view(job_id).state is JobState.QUEUED
    assert ledger.claim(job_id, "w3", lease_seconds=LEASE) == Refusal(job_id, ClaimOutcome.POISON)


def test_the_flag_is_of_one_fence_and_ends_with_its_claim(ledger: Ledger) -> None:
    def is_alone() -> bool:
        return bool(ledger.client.hget(keys.job(job_id), "alone") == "1")

    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    lose(ledger, job_id, "w1")
    first = claim(ledger, job_id, alone=True)
    assert is_alone()
    assert ledger.release(job_id, first.fence, "tiny").reply is Reply.OK
    assert not is_alone()
    assert ledger.end_probation(job_id, first.fence, lease_seconds=LEASE) is Reply.FENCED

    second = claim(ledger, job_id, alone=True)
    assert ledger.end_probation(job_id, first.fence, lease_seconds=LEASE) is Reply.FENCED
    assert is_alone()
    for _ in range(2):  # a call whose reply was lost is made again
        assert ledger.end_probation(job_id, second.fence, lease_seconds=LEASE) is Reply.OK
    assert not is_alone()
    ledger.cancel(job_id)
    assert ledger.end_probation(job_id, second.fence, lease_seconds=LEASE) is Reply.CANCELLED


def test_a_claim_whose_reply_was_lost_says_again_that_it_is_alone(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, "w0")
    lose(ledger, job_id, "w1")
    first, again = (ledger.claim(job_id, "w2", lease_seconds=LEASE, claim_id="c", alone=True) for _ in range(2))
    assert isinstance(first, Claim)
    assert first == again
    assert first.alone_until == PROBATION_TOKENS


def test_the_end_of_probation_renews_the_lease(ledger: Ledger) -> None:
    job_id = submit(ledger)
    fence = claim(ledger, job_id, lease=0.05).fence
    ledger.end_probation(job_id, fence, lease_seconds=LEASE)
    lease = int(ledger.client.hget(keys.job(job_id), "lease_ms") or 0)
    assert ledger.client.zscore(keys.OPEN_JOBS, job_id) == lease
    assert lease > int(ledger.client.time()[0]) * 1000 + 20_000


def test_probation_ends_behind_the_place_of_the_last_loss_and_later_each_time(ledger: Ledger) -> None:
    def claim_alone() -> Claim:
        return claim(ledger, job_id, "w", alone=True)

    job_id = submit(ledger)
    assert claim_alone().alone_until is None
    expire_lease(ledger, job_id)
    assert claim_alone().alone_until is None  # one loss is bad luck
    expire_lease(ledger, job_id)
    second = claim_alone()
    assert second.alone_until == PROBATION_TOKENS
    for seq in range(1, PROBATION_TOKENS + 1):
        emit_token(ledger, job_id, second.fence, seq)
    ledger.release(job_id, second.fence, "tiny")
    assert claim(ledger, job_id, "w").alone_until is None  # passed, and it stays so
    expire_lease(ledger, job_id)
    third = claim_alone()
    assert third.alone_until == PROBATION_TOKENS + 2 * PROBATION_TOKENS
    ledger.release(job_id, third.fence, "tiny")
    ledger.client.hset(keys.job(job_id), "history", _many_losses(100))
    assert claim_alone().alone_until == PROBATION_TOKENS * 2**MOST_DOUBLINGS


def _many_losses(n: int) -> str:
    loss = '{"owner":"w","seq":0,"attempt":1,"lease_ended_ms":1,"noticed_ms":1}'  # as an earlier version wrote them
    return "[" + ",".join([loss] * n) + "]"


def test_with_one_crash_allowed_suspicion_begins_at_the_first(ledger: Ledger) -> None:
    strict = Ledger(ledger.client, max_crashes=1)
    job_id = submit(strict)
    lose(strict, job_id, "w0")
    assert lose(strict, job_id, "w1", alone=True).alone_until == PROBATION_TOKENS
    assert poison_of(strict.view(job_id))


def test_a_certificate_is_in_the_history_whether_it_comes_before_or_after(ledger: Ledger) -> None:
    ledger = Ledger(ledger.client, max_crashes=4)
    job_id, deaths = submit(ledger), Deaths(ledger.client)
    deaths.certify("before", signal="SIGSEGV", exit_code=None, out_of_memory=False)
    lose(ledger, job_id, "before")
    lose(ledger, job_id, "after")
    deaths.certify("after", signal=None, exit_code=7, out_of_memory=None)
    lose(ledger, job_id, "never")
    lose(ledger, job_id, "starved", alone=True)
    deaths.certify("starved", signal="SIGKILL", exit_code=None, out_of_memory=True)
    history = ledger.view(job_id).history
    assert [loss.how for loss in history] == [
        "killed by SIGSEGV",
        "ended with exit code 7",
        "lease ran out, end unknown",
        "killed by the kernel: out of memory",
    ]
    assert [loss.ending is None for loss in history] == [False, False, True, False]
    assert 0 < ledger.client.ttl(keys.death("after")) <= keys.DEATH_TTL_SECONDS


def test_readers_see_the_same_history(redis_url: str, ledger: Ledger) -> None:
    job_id = submit(ledger)
    submit(ledger)
    lose(ledger, job_id, "w0")
    Deaths(ledger.client).certify("w0", signal="SIGBUS", exit_code=None, out_of_memory=None)

    async def read() -> tuple[JobView, JobView]:
        client = connect_async(redis_url)
        try:
            reader = LedgerReader(client)
            (listed,) = (view for view in await reader.jobs() if view.id == job_id)
            return await reader.view(job_id), listed
        finally:
            await client.aclose()

    view, listed = asyncio.run(read())
    assert view == listed == ledger.view(job_id)
    assert view.history[0].how == "killed by SIGBUS"


def test_the_leases_of_a_dead_worker_end_at_once_and_no_others(ledger: Ledger) -> None:
    lost, kept, released, waiting = (submit(ledger) for _ in range(4))
    claim(ledger, lost, "dead")
    claim(ledger, kept, "alive")
    ledger.release(released, claim(ledger, released, "dead").fence, "tiny")
    deaths = Deaths(ledger.client)
    for _ in range(2):  # a call whose reply was lost is made again
        assert deaths.certify("dead", signal="SIGKILL", exit_code=None, out_of_memory=None) == [lost]
    (bell,) = ledger.reap().bells
    assert bell.job_id == lost
    assert ledger.view(lost).history[0].how == "killed by SIGKILL"
    for job_id, state in ((kept, JobState.RUNNING), (released, JobState.QUEUED), (waiting, JobState.QUEUED)):
        view = ledger.view(job_id)
        assert (view.state, view.crashes, view.history) == (state, 0, ())
    assert deaths.certify("dead", signal=None, exit_code=1, out_of_memory=None) == []
    assert ledger.view(lost).history[0].how == "killed by SIGKILL"  # nobody dies twice
