"""The record of every job: one method per transition, each a single Lua script on the server.

The ledger is the truth. A Celery message only says that a job may be waiting; whoever holds the newest fence may
write; the server's TIME is the only clock. Methods raise LedgerUnavailable when Redis does not answer, and every one
of them may be called again after that without harm.

It does not ring bells: the callers own Celery. It is synchronous and safe to share between threads.
"""

import secrets
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import cast

import redis
from pydantic import ValidationError

from woolly_worker.contract.errors import InternalError, InvalidRequest, JobNotFound, LedgerUnavailable, WoollyError
from woolly_worker.contract.jobs import JobRequest, JobResult, JobView
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.ledger import keys, views
from woolly_worker.ledger.checks import is_job_id, is_number
from woolly_worker.ledger.clocks import Measured, look
from woolly_worker.ledger.connection import translated_errors
from woolly_worker.ledger.damage import Damage
from woolly_worker.ledger.deaths import Deaths
from woolly_worker.ledger.endings import CLOSING_STATES, Endings
from woolly_worker.ledger.foreign import foreign, printable, set_aside
from woolly_worker.ledger.records import (
    Bell,
    BrokenJob,
    Claim,
    ClaimOutcome,
    Emission,
    Finish,
    Finished,
    LaneCounts,
    Once,
    Reaped,
    Refusal,
    Released,
    Reply,
    Submitted,
)
from woolly_worker.ledger.store import Store
from woolly_worker.ledger.submission import Submission
from woolly_worker.ledger.timelines import told

DEFAULT_RETENTION_SECONDS = 3600.0
DEFAULT_BELL_SECONDS = 5.0
DEFAULT_MAX_CRASHES = 3
REAP_BATCH = 100
UNFOLLOWED_BATCH = 1000  # a look at one takes microseconds
BROKEN_MS = 60_000  # until the reaper looks again at a job that it could not look at
# Until the reaper looks at a job that a worker could not claim and has put aside.
ASIDE_LOOK_MS = 60_000
# Until it looks at one that merely waits: between one and two hours. Lost bells are counted by model, so nothing
# depends on it, and the looks at a long backlog must not come together and keep it from leases that have run out.
WAITING_LOOK_MS = 3_600_000
MOST_BELLS = 1000  # rung again at a time, for a broker that has lost them all
STRAND_SECONDS = 30.0  # for a worker to restart and load its model
NO_EXPIRY = -1  # what PTTL says
# A claim makes the fence larger by a random step, so that a server which has forgotten a claim does not give its fence
# to another worker: the one that has it may be alive.
MOST_FENCE_STEP = 2**32  # 400,000 claims of one job stay exact in Lua


class Ledger:
    def __init__(
        self,
        client: redis.Redis,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        bell_seconds: float = DEFAULT_BELL_SECONDS,
        max_crashes: int = DEFAULT_MAX_CRASHES,
        on_closed: Callable[[str, JobState, JobResult], None] = lambda job_id, state, result: None,
        on_lost: Callable[[str, str, int], None] = lambda job_id, worker_id, attempt: None,
    ) -> None:
        """`bell_seconds`: how long a model may have fewer bells than queued jobs before the reaper rings them again.

        `on_closed`: called once for each job that was ended here and not by the worker that ran it: cancelled or
        expired in the queue, poison, unreadable or damaged. Of all processes one hears of it. So it is with `on_lost`:
        called when it was found here that the lease of a job has run out, with who held it, for which attempt."""
        self.client = client
        self._store = Store(client)
        self._deaths = Deaths(client)
        self._bell_ms = max(1, int(bell_seconds * 1000))
        self._max_crashes = max_crashes
        self._on_lost = on_lost
        retention_ms = max(1, int(retention_seconds * 1000))
        self._damage = Damage(self._store, retention_ms, on_closed)
        self._endings = Endings(
            self._store, self._deaths, retention_ms=retention_ms, max_crashes=max_crashes, on_closed=on_closed
        )

    def submit(
        self,
        request: JobRequest,
        *,
        job_id: str | None = None,
        once: Once | None = None,
        follow_seconds: float | None = None,
        max_queued: int | None = None,
        max_queued_tokens: int | None = None,
    ) -> Submitted:
        """Records the job as queued. Afterwards the caller rings `bell`, off the request's path; if that fails, the
        reaper rings it. With `once` it may turn out to be an earlier job, or IdempotencyKeyReused.

        `follow_seconds`: the job runs for a client who waits, and is cancelled when nobody has followed it for between
        once and twice that time. QueueFull when `max_queued` jobs of this model wait already, or when what they and
        this one may take exceeds `max_queued_tokens`; LedgerFull when Redis is close to its maxmemory."""
        job_id = job_id or uuid.uuid4().hex
        if not is_job_id(job_id):
            raise InvalidRequest(f"a job's id matches {keys.JOB_ID_PATTERN}, {printable(job_id)!r} does not")
        submission = Submission(
            job_id=job_id,
            request=request,
            once=once,
            follow_seconds=follow_seconds,
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
        )
        return submission.outcome(*self._store.call("submit", submission.keys(), submission.args(_waiting_look_ms())))

    def next_job(self, model: str, *, passing: str | None = None) -> str | None:
        """The queued job that is to be claimed next, or None. `passing` could not be claimed: it leaves its lane if it
        is still the next one, and the reaper decides about it later."""
        args: list[str | int] = [keys.job(""), "" if passing is None else passing, ASIDE_LOOK_MS]
        return cast(str | None, self._store.call("next", [keys.lanes(model), keys.OPEN_JOBS], args))

    def claim(
        self,
        job_id: str,
        owner: str,
        *,
        lease_seconds: float,
        claim_id: str | None = None,
        recipe: str = "",
        alone: bool = False,
    ) -> Claim | Refusal:
        """Takes the job for `owner` (a worker id). Call it again with the same `claim_id` if the reply was lost.
        `recipe`: what the owner's tokens depend on; a job that has tokens of another recipe is not given to it.
        `alone`: the owner works on nothing else until `end_probation`; a suspect is given to no other.
        A job that turns out to be cancelled, expired, poison, unreadable or damaged is closed here."""
        claim_id = claim_id or uuid.uuid4().hex
        call = lambda: self._claim(job_id, owner, lease_seconds, claim_id, recipe, alone)  # noqa: E731
        damaged: Claim | Refusal = Refusal(job_id, ClaimOutcome.DAMAGED)
        return self._damage.or_end(job_id, call, damaged)

    def _claim(
        self, job_id: str, owner: str, lease_seconds: float, claim_id: str, recipe: str, alone: bool
    ) -> Claim | Refusal:
        record = self._damage.checked(job_id) if is_job_id(job_id) else None
        if record is None:
            return Refusal(job_id, ClaimOutcome.GONE)
        if record["state"] in TERMINAL_STATES:
            return Refusal(job_id, ClaimOutcome.TERMINAL)
        model = record["model"]
        outcome, fence, seq, attempt, crashes, now_ms, until_tokens, *lost = self._store.call(
            "claim",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model), keys.REAPER_SEEN],
            [
                job_id,
                owner,
                claim_id,
                int(lease_seconds * 1000),
                self._max_crashes,
                recipe,
                int(alone),
                fence_step(),
            ],
        )
        self._tell_lost(job_id, *lost)
        if outcome in CLOSING_STATES:
            self._endings.close(job_id, fence, outcome)
        if outcome != ClaimOutcome.CLAIMED:
            return Refusal(job_id, ClaimOutcome(outcome))
        names = ["request", "created_ms", "queued_ms", "claimed_ms", "first_token_ms", "deadline_ms"]
        request, created_ms, queued_ms, claimed_ms, first_token_ms, deadline_ms = self._store.fields(job_id, names)
        if request is None or created_ms is None or queued_ms is None or claimed_ms is None:
            raise InternalError("the record lacks a field that the claim needs")
        tokens = self._store.tokens(job_id, seq)
        try:
            wanted = JobRequest.model_validate_json(request)
        except ValidationError:
            self._endings.end_unreadable(job_id, fence, model, tokens)
            return Refusal(job_id, ClaimOutcome.UNREADABLE)
        return Claim(
            job_id=job_id,
            fence=fence,
            request=wanted,
            attempt=attempt,
            crashes=crashes,
            clock=look(self.client),
            token_ids=tuple(token.token_id for token in tokens),
            text="".join(token.text for token in tokens),
            created_at=int(created_ms) / 1000,
            queued_at=int(queued_ms) / 1000,
            claimed_at=int(claimed_ms) / 1000,
            first_token_at=None if first_token_ms is None else int(first_token_ms) / 1000,
            deadline_remaining_seconds=_remaining_seconds(deadline_ms, now_ms),
            alone_until=int(until_tokens) if until_tokens != "" else None,
        )

    def strand(self, job_id: str, recipes: Collection[str]) -> bool:
        """Fails a queued job that none of `recipes`, those of the workers that are alive, can continue, once nobody has
        been able to for STRAND_SECONDS: the worker that can may be restarting. Whether it did."""
        names = ["fence", "recipe", "state", "unserved_ms"]
        fence, recipe, state, unserved_ms = self._store.fields(job_id, names)
        if fence is None or state != JobState.QUEUED or recipe is None:
            return False
        if recipe in recipes:  # it is busy, and if it ends, the time begins with that
            with translated_errors():
                self.client.hdel(keys.job(job_id), "unserved_ms")
            return False
        if unserved_ms is None or not is_number(unserved_ms):  # the next claim that is refused writes it
            return False
        if self._store.now_ms() - int(unserved_ms) < STRAND_SECONDS * 1000:
            return False
        return self._damage.or_end(job_id, lambda: self._endings.close(job_id, int(fence), "stranded"), True)

    def emit(self, emissions: Sequence[Emission], *, lease_seconds: float) -> list[Reply]:
        """One call for a whole engine step. Renews every job's lease; see Reply for what each answer means."""
        if not emissions:
            return []
        names = [keys.OPEN_JOBS]
        args: list[str | int] = [int(lease_seconds * 1000)]
        for emission in emissions:
            names += (keys.job(emission.job_id), keys.events(emission.job_id))
            event = "" if emission.event is None else emission.event.model_dump_json(exclude_none=True)
            n_prompt = "" if emission.n_prompt is None else emission.n_prompt
            args += (emission.job_id, emission.fence, emission.seq, event, n_prompt)
        return [Reply(reply) for reply in self._store.call("emit", names, args)]

    def end_probation(self, job_id: str, fence: int, *, lease_seconds: float) -> Reply:
        """The owner of a job that was claimed `alone` goes on with others beside it, as soon as it has the answer: OK,
        CANCELLED or FENCED. Renews the lease."""
        args: list[str | int] = [job_id, fence, int(lease_seconds * 1000)]
        call = lambda: Reply(self._store.call("company", [keys.job(job_id), keys.OPEN_JOBS], args))  # noqa: E731
        return self._damage.or_end(job_id, call, Reply.FENCED)

    def finish(self, finish: Finish) -> Finished:
        """The terminal event, by the owner. The ledger adds its share of the metrics. A damaged job is ended here, and
        the reply says that it is not the caller's any more."""
        fenced = Finished(Reply.FENCED, JobResult())
        return self._damage.or_end(finish.job_id, lambda: self._endings.finish(finish), fenced)

    def release(self, job_id: str, fence: int, model: str, measured: Measured | None = None) -> Released:
        """Gives a running job back. Its tokens stay; the next owner goes on behind them."""
        call = lambda: self._release(job_id, fence, model, measured)  # noqa: E731
        return self._damage.or_end(job_id, call, Released(Reply.FENCED))

    def _release(self, job_id: str, fence: int, model: str, measured: Measured | None) -> Released:
        args: list[str | int] = [job_id, fence, _waiting_look_ms(), told(measured, self.client)]
        reply, *bell = self._store.call("release", [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)], args)
        if not bell:
            return Released(Reply(reply))
        (number,) = bell
        return Released(Reply(reply), Bell(job_id, model, number))

    def cancel(self, job_id: str) -> JobState:
        """Asks for the end of a job. Returns the state it is in now: cancelled if it was waiting, running if its
        worker will see the flag at its next step, or the terminal state it had reached before."""
        return self._damage.or_end(job_id, lambda: self._cancel(job_id), JobState.FAILED)

    def _cancel(self, job_id: str) -> JobState:
        self._damage.checked(job_id)
        for _ in range(3):
            state, fence = self._store.call("cancel", [keys.job(job_id), keys.OPEN_JOBS], [job_id])
            if state == "gone":
                raise JobNotFound(f"no job '{job_id}'")
            if state != JobState.QUEUED or self._endings.close(job_id, fence, "cancelled"):
                return JobState.CANCELLED if state == JobState.QUEUED else JobState(state)
        # Lost against three claims or releases in a row. The flag stands, so the next claim or step ends it.
        return JobState.QUEUED

    def end_damaged(self, job_id: str) -> str | None:
        """Ends a job that a call failed for, if its record or stream is damaged. Says what is wrong with it."""
        return self._damage.end(job_id)

    def await_answer(self, call_id: str, *, seconds: float) -> None:
        """Say that somebody waits for the answer to a benchmark, for so long by Redis's clock."""
        with translated_errors():
            self.client.set(keys.benchmark(call_id), "", px=int(seconds * 1000))

    def reap(self, *, limit: int = REAP_BATCH) -> Reaped:
        """Looks at the jobs that are due. Closes what must not run any more and returns the bells to ring. A job that
        cannot be looked at is named, and ended if its record is damaged, else put off; the others do not wait for
        it."""
        set_aside(self._store)
        away_ms, n_extended = self._store.call("absence", [keys.REAPER_SEEN, keys.OPEN_JOBS], [keys.job("")])
        abandoned = self._store.call(
            "unfollowed", [keys.FOLLOWED_JOBS, keys.OPEN_JOBS], [keys.job(""), UNFOLLOWED_BATCH, away_ms]
        )
        now_ms = self._store.now_ms()
        with translated_errors():
            self.client.zremrangebyscore(keys.FINISHED_JOBS, "-inf", now_ms)  # their records have expired
            due = self.client.zrange(keys.OPEN_JOBS, "-inf", str(now_ms), byscore=True, offset=0, num=limit)
        rung = self._missing_bells()
        closed: list[str] = []
        broken: list[BrokenJob] = []
        for job_id in map(str, due):
            try:
                found = self._look(job_id)
            except LedgerUnavailable:
                raise
            except Exception as error:
                broken.append(self._broken(job_id, error, now_ms))
                continue
            if isinstance(found, Bell):
                rung.append(found)
            elif found:
                closed.append(job_id)
        return Reaped(tuple(rung), tuple(closed), tuple(broken), tuple(abandoned), away_ms / 1000, n_extended, len(due))

    def reaper_turn(self, owner: str, *, seconds: float) -> bool:
        """Whether `owner` may reap now. One reaper at a time, over all processes."""
        with translated_errors():
            taken = bool(self._store.call("turn", [keys.REAPER_MUTEX], [owner, max(1, int(seconds * 1000))]))
            if not taken and self.client.pttl(keys.REAPER_MUTEX) == NO_EXPIRY:
                # No reaper of ours leaves it so, and nobody would ever reap again.
                foreign.tell("key", keys.REAPER_MUTEX, "it has no time to live: removed")
                self.client.delete(keys.REAPER_MUTEX)
        return taken

    def view(self, job_id: str) -> JobView:
        fields = self._store.fields(job_id, views.VIEW_FIELDS)
        return views.view_of(job_id, fields, self._deaths.of(views.lost_workers(fields)))

    def lane_counts(self, model: str) -> LaneCounts:
        with translated_errors():
            fields = self.client.hgetall(keys.lanes(model))
        return views.lane_counts_of(cast(dict[str, str], fields))

    # -- below: the parts of a reaper's turn --

    def _look(self, job_id: str) -> Bell | bool:
        """The bell to ring for an open job that is due, or whether it was closed."""
        if not is_job_id(job_id):
            with translated_errors():
                self.client.zrem(keys.OPEN_JOBS, job_id)
            foreign.tell("open job", job_id, "it is no id of a job: removed from the index")
            return False
        record = self._damage.checked(job_id)
        if record is None or record["state"] in TERMINAL_STATES:
            with translated_errors():
                self.client.zrem(keys.OPEN_JOBS, job_id)
            return False
        model = record["model"]
        verdict, fence, number, *lost = self._store.call(
            "look",
            [keys.job(job_id), keys.OPEN_JOBS, keys.lanes(model)],
            [job_id, _waiting_look_ms(), self._max_crashes],
        )
        self._tell_lost(job_id, *lost)
        if verdict == "resume":
            return Bell(job_id, model, number)
        return verdict in CLOSING_STATES and self._endings.close(job_id, fence, verdict)

    def _tell_lost(self, job_id: str, owner: str, attempt: int) -> None:
        if attempt:
            self._on_lost(job_id, printable(owner), attempt)

    def _broken(self, job_id: str, error: Exception, now_ms: int) -> BrokenJob:
        problem = self._damage.end(job_id)
        if problem is not None:
            return BrokenJob(job_id, problem)
        with translated_errors():
            self.client.zadd(keys.OPEN_JOBS, {job_id: now_ms + BROKEN_MS}, xx=True)
        said = f": {error.message}" if isinstance(error, WoollyError) else ""
        return BrokenJob(job_id, type(error).__name__ + said)

    def _missing_bells(self) -> list[Bell]:
        """Bells for every model that has had fewer of them than queued jobs for `bell_seconds`."""
        bells: list[Bell] = []
        for model in self._store.models():
            args: list[str | int] = [keys.job(""), self._bell_ms, MOST_BELLS, 2 * ASIDE_LOOK_MS]
            names = [keys.lanes(model), keys.bells(model), keys.OPEN_JOBS]
            found = self._store.call("missing_bells", names, args)
            bells += [Bell(job_id, model, number) for job_id, number in found]
        return bells


def fence_step() -> int:
    return secrets.randbelow(MOST_FENCE_STEP) + 1


def _waiting_look_ms() -> int:
    return WAITING_LOOK_MS + secrets.randbelow(WAITING_LOOK_MS)


def _remaining_seconds(deadline_ms: str | None, now_ms: int) -> float | None:
    if deadline_ms is None or deadline_ms == "0":
        return None
    return max(0.0, (int(deadline_ms) - now_ms) / 1000)
