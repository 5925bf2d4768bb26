"""Random histories of a job against a real server, compared with a model of what the contract promises."""

import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from probation import PROBATION_TOKENS

from woolly_worker.contract.events import DoneEvent, FailedEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.jobs import ErrorInfo, JobRequest, Usage
from woolly_worker.contract.states import TERMINAL_STATES, JobState, may_become
from woolly_worker.ledger import keys
from woolly_worker.ledger.backlog import cost_tokens
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, ClaimOutcome, Emission, Finish, Refusal, Reply
from woolly_worker.ledger.server import EmbeddedServer

LEASE = 60.0
COST = cost_tokens(JobRequest(model="tiny", prompt="x"))  # the same for all jobs here


class Histories(RuleBasedStateMachine):
    """Any number of jobs and of claims on them, valid or long outdated. `written` is what the model says is written."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")
    ledger: Ledger  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.ledger.client.flushall()
        self.states: dict[str, JobState] = {}
        self.owners: dict[str, int | None] = {}  # the fence that may write now
        self.written: dict[str, list[int]] = {}
        self.crashes: dict[str, int] = {}
        self.alone: set[str] = set()  # computed alone now, or when they were lost
        self.alone_until: dict[str, int] = {}  # tokens; of the suspects
        self.cancelled: set[str] = set()
        self.late: set[str] = set()
        self.n_claims = 0

    def moved(self, job_id: str, new: JobState) -> None:
        old = self.states[job_id]
        assert old is new or may_become(old, new), (old, new)
        self.states[job_id] = new
        if new is not JobState.RUNNING:
            self.owners[job_id] = None

    def lost(self, job_id: str) -> None:
        self.crashes[job_id] += 1
        n = len(self.written[job_id])
        self.alone_until[job_id] = n + PROBATION_TOKENS * 2 ** (self.crashes[job_id] - 1)
        self.moved(job_id, JobState.QUEUED)

    def end_of_the_unowned(self, job_id: str) -> JobState | None:
        """How a queued job ends that must not run, in the order in which the scripts look."""
        if job_id in self.cancelled:
            return JobState.CANCELLED
        if job_id in self.late:
            return JobState.EXPIRED
        return JobState.FAILED if self.crashes[job_id] >= 2 and job_id in self.alone else None

    @initialize(target=jobs)
    def submit_the_first(self):
        return self.submit()

    @rule(target=jobs)
    def submit(self):
        job_id = f"job{len(self.states)}"
        self.ledger.submit(JobRequest(model="tiny", prompt="x", deadline_seconds=3600), job_id=job_id)
        self.states[job_id] = JobState.QUEUED
        self.owners[job_id] = None
        self.written[job_id] = []
        self.crashes[job_id] = 0
        return job_id

    @rule(job_id=jobs)
    def submit_again(self, job_id):
        assert self.ledger.submit(JobRequest(model="tiny", prompt="y"), job_id=job_id).bell is None

    def expired(self, job_id: str) -> bool:
        return int(self.ledger.client.hget(keys.job(job_id), "lease_ms") or 0) == 1

    @rule(target=claims, job_id=jobs, alone=st.booleans())
    def claim(self, job_id, alone):
        before = self.states[job_id]
        lease_over = before is JobState.RUNNING and self.expired(job_id)
        self.n_claims += 1
        answer = self.ledger.claim(job_id, f"w{self.n_claims}", lease_seconds=LEASE, alone=alone)
        if before in TERMINAL_STATES or (before is JobState.RUNNING and not lease_over):
            assert isinstance(answer, Refusal)
            return multiple()
        if lease_over:
            self.lost(job_id)
        end = self.end_of_the_unowned(job_id)
        if end is not None:
            assert isinstance(answer, Refusal)
            self.moved(job_id, end)
            return multiple()
        until = self.alone_until.get(job_id, 0)
        suspect = len(self.written[job_id]) < until
        if suspect and not alone:
            assert answer == Refusal(job_id, ClaimOutcome.SUSPECT)
            return multiple()
        assert isinstance(answer, Claim)
        assert list(answer.token_ids) == self.written[job_id]
        assert answer.alone_until == (until if suspect else None)
        self.moved(job_id, JobState.RUNNING)
        self.owners[job_id] = answer.fence
        (self.alone.add if suspect else self.alone.discard)(job_id)
        return (job_id, answer.fence)

    @rule(claim=claims, seq=st.integers(-1, 2), token_id=st.integers(0, 9))
    def emit(self, claim, seq, token_id):
        job_id, fence = claim
        n = len(self.written[job_id])
        seq = n + 1 + seq  # the one before the last, the last, the next, or one too far
        event = TokenEvent(seq=seq, token_id=token_id, text="x") if seq > 0 else None
        (reply,) = self.ledger.emit([Emission(job_id, fence, event)], lease_seconds=LEASE)
        if self.owners[job_id] != fence:
            assert reply is Reply.FENCED
        elif seq > n + 1:
            assert reply is Reply.GAP
        else:
            assert reply is (Reply.CANCELLED if job_id in self.cancelled else Reply.OK)
            if seq == n + 1:
                self.written[job_id].append(token_id)

    @rule(claim=claims, state=st.sampled_from(sorted(TERMINAL_STATES)), too_far=st.booleans())
    def finish(self, claim, state, too_far):
        job_id, fence = claim
        seq = len(self.written[job_id]) + 1 + too_far
        if state is JobState.SUCCEEDED:
            event = DoneEvent(seq=seq, finish_reason="stop", usage=Usage(), metrics={})
        else:
            event = FailedEvent(seq=seq, state=state, error=ErrorInfo(code="x", message="x"))
        reply = self.ledger.finish(Finish(job_id, fence, "tiny", event, tuple(self.written[job_id]), "")).reply
        if self.owners[job_id] == fence and self.states[job_id] is JobState.RUNNING:
            assert reply is (Reply.GAP if too_far else Reply.OK)
            if not too_far:
                self.moved(job_id, state)

    @rule(claim=claims)
    def release(self, claim):
        job_id, fence = claim
        reply = self.ledger.release(job_id, fence, "tiny").reply
        if self.owners[job_id] == fence:
            assert reply is Reply.OK
            self.moved(job_id, JobState.QUEUED)
            self.alone.discard(job_id)

    @rule(claim=claims)
    def end_probation(self, claim):
        job_id, fence = claim
        reply = self.ledger.end_probation(job_id, fence, lease_seconds=LEASE)
        if self.owners[job_id] != fence:
            assert reply is Reply.FENCED
            return
        assert reply is (Reply.CANCELLED if job_id in self.cancelled else Reply.OK)
        self.alone.discard(job_id)

    @rule(job_id=jobs)
    def cancel(self, job_id):
        before = self.states[job_id]
        state = self.ledger.cancel(job_id)
        if before is JobState.QUEUED:
            self.moved(job_id, JobState.CANCELLED)
        elif before is JobState.RUNNING:
            self.cancelled.add(job_id)
        assert state is self.states[job_id]

    @rule(target=claims, claim=claims)
    def another_worker_takes_over(self, claim):
        """What it takes to make a claim outdated, in one step: chance alone seldom gets there."""
        job_id = claim[0]
        self.lease_runs_out(job_id)
        return self.claim(job_id, alone=True)

    @rule(job_id=jobs)
    def lease_runs_out(self, job_id):
        if self.states[job_id] is JobState.RUNNING:
            self.ledger.client.hset(keys.job(job_id), "lease_ms", 1)
            self.ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})

    @rule(job_id=jobs)
    def deadline_passes(self, job_id):
        if self.states[job_id] not in TERMINAL_STATES:
            self.ledger.client.hset(keys.job(job_id), "deadline_ms", 1)
            self.ledger.client.zadd(keys.OPEN_JOBS, {job_id: 1})
            self.late.add(job_id)

    @rule()
    def reap(self):
        now = str(time.time_ns() // 1_000_000)
        due = {str(i) for i in self.ledger.client.zrange(keys.OPEN_JOBS, "-inf", now, byscore=True)}
        over = {job_id for job_id in due if self.states[job_id] is JobState.RUNNING and self.expired(job_id)}
        reaped = self.ledger.reap()
        assert {bell.job_id for bell in reaped.bells} <= due
        for job_id in due:
            if job_id in over:
                self.lost(job_id)
            if self.states[job_id] is JobState.QUEUED and (end := self.end_of_the_unowned(job_id)):
                assert job_id in reaped.closed
                self.moved(job_id, end)

    @invariant()
    def the_record_agrees(self):
        for job_id, state in self.states.items():
            view = self.ledger.view(job_id)
            assert (view.state, view.last_seq, view.crashes) == (state, len(self.written[job_id]), self.crashes[job_id])
            entries = self.ledger.client.xrange(keys.events(job_id))
            events = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries]
            n = len(self.written[job_id])
            ended = state in TERMINAL_STATES
            assert [entry for entry, _ in entries] == [f"{i + 1}-0" for i in range(n + ended)]
            assert [event.token_id for event in events[:n]] == self.written[job_id]
            assert all(event.type == "token" for event in events[:n])
            assert [event.state for event in events[n:]] == ([state] if ended else [])
            assert (view.result is not None) == ended
            assert (self.ledger.client.zscore(keys.OPEN_JOBS, job_id) is None) == ended

    @invariant()
    def whoever_is_queued_waits_in_one_lane(self):
        """And no lane is left over, in the round or outside of it."""
        round_ = self.ledger.client.zrange(f"{keys.lanes('tiny')}#round", 0, -1)
        lanes = {str(name) for name in self.ledger.client.keys(f"{keys.lanes('tiny')}#*#*")}
        assert lanes == {f"{keys.lanes('tiny')}#{name}" for name in round_}
        waiting = [job_id for name in lanes for job_id in self.ledger.client.zrange(name, 0, -1)]
        assert sorted(waiting) == sorted(i for i, state in self.states.items() if state is JobState.QUEUED)

    @invariant()
    def the_gauges_agree(self):
        counts = self.ledger.lane_counts("tiny")
        for state in JobState:
            assert getattr(counts, state.value) == sum(1 for s in self.states.values() if s is state)
        assert counts.queued_tokens == counts.queued * COST


def test_any_history_keeps_to_the_contract(redis_server: EmbeddedServer) -> None:
    client = connect(redis_server.url)
    Histories.ledger = Ledger(client, max_crashes=2)
    try:
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        client.close()
