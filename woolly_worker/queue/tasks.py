"""The Celery task of a job: claim it, hand it to the engine, wait, report. A thin door. And that of a benchmark.

The task's result is a small dict for Flower. What a job said and why it failed is in the ledger.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from woolly_worker.contract.benchmarks import BenchmarkAnswer, BenchmarkType
from woolly_worker.contract.errors import InternalError, LedgerUnavailable, WoollyError
from woolly_worker.contract.events import FailedEvent
from woolly_worker.contract.jobs import ErrorInfo, JobResult, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineRequest, EngineStopped, ProbationPassed
from woolly_worker.ledger import keys
from woolly_worker.ledger.records import Claim, ClaimOutcome, Finish, Refusal, Reply
from woolly_worker.queue.publisher import Outcome, OutcomeKind
from woolly_worker.queue.retry import GivenUp, until_answered
from woolly_worker.queue.runtime import Runtime
from woolly_worker.telemetry import log, log_bug, log_job


class JobFailed(Exception):
    """Makes a failed job a failed task in Flower. Carries the contract's error code only."""


def register(app: Any) -> None:
    @app.task(bind=True, name=keys.TASK_GENERATE, acks_late=True, throws=(JobFailed,))
    def generate(self: Any, job_id: str) -> dict[str, Any]:
        return run_job(app.runtime, job_id, self.request.id or job_id, partial(_show, self))

    @app.task(name=keys.TASK_BENCHMARK, acks_late=False)
    def benchmark(call_id: str, test_type: str, iterations: int) -> dict[str, Any]:
        if not app.runtime.registry.is_awaited(call_id):
            log.info("benchmark not run, nobody waits for it", call_id=call_id)
            return {"outcome": ClaimOutcome.GONE.value}
        return run_benchmark(app.runtime, call_id, test_type, iterations)


def run_job(
    runtime: Runtime, job_id: str, task_id: str, show: Callable[[str], None] = lambda job_id: None
) -> dict[str, Any]:
    """One attempt at the job that is next; `show` is told which, if it is not the bell's own `job_id`. The message is
    acknowledged in any case: a job that is not done is in the ledger, and whoever puts it back rings anew."""
    if runtime.engine_died:  # the reaper of another process rings again
        return {"outcome": OutcomeKind.ABANDONED.value}
    served = job_id
    try:
        with contextlib.ExitStack() as attempt:

            def hold(claim: Claim) -> Claim:
                nonlocal served
                served = claim.job_id
                if served != job_id:
                    show(served)
                attempt.enter_context(runtime.holding(task_id, claim))
                return claim

            outcome = _serve(runtime, job_id, hold)
    except GivenUp:
        return {"outcome": OutcomeKind.ABANDONED.value}  # the lease, or the reaper's look at its bell, decides
    except Exception as error:  # Celery would log its message, which may quote a prompt
        log_bug("an attempt at a job failed", error, job_id=served)
        return {"outcome": OutcomeKind.ABANDONED.value}
    if isinstance(outcome, Refusal):
        _tell("bell not answered", outcome)
        return {"outcome": outcome.outcome.value}
    if outcome.bell is not None:
        runtime.ring(outcome.bell)
    return _report(served, outcome)


def _serve(runtime: Runtime, job_id: str, hold: Callable[[Claim], Claim]) -> Outcome | Refusal:
    """How it went on with the job that was next, or why there was none. `hold` is told the claim."""
    unclaimable = set[str]()
    while True:
        with runtime.solitude.company(lambda: runtime.draining) as free:
            if not free:
                raise GivenUp("this worker ends")
            claim = _take(runtime, job_id)
            waiter = _start(runtime, hold(claim)) if isinstance(claim, Claim) else None
        if waiter is not None:
            return waiter.result()
        if isinstance(claim, Refusal) and (claim.outcome is not ClaimOutcome.SUSPECT or claim.job_id in unclaimable):
            return claim
        outcome = _serve_alone(runtime, claim.job_id, hold)
        if isinstance(outcome, Outcome):
            return outcome
        if outcome is None:
            unclaimable.add(claim.job_id)


def _serve_alone(runtime: Runtime, job_id: str, hold: Callable[[Claim], Claim]) -> Outcome | Refusal | None:
    """A suspect is claimed when nothing else is worked on, so that whatever it does to this worker, it did. The others
    go on when it has passed (`Publisher`), or when its end is written. A Refusal if it is not to be had any more; None
    if it could not be claimed: it is put aside, and its bell is good for another job."""
    with runtime.solitude.alone(runtime.engine, lambda: runtime.draining) as free:
        if not free:
            raise GivenUp("this worker ends")
        claim = _try_to_claim(runtime, job_id, alone=True)
        if claim is None:
            _next_job(runtime, job_id)  # which puts it aside
        return _run_alone(runtime, hold(claim)) if isinstance(claim, Claim) else claim


def _take(runtime: Runtime, job_id: str) -> Claim | Refusal:
    """The job that is next in its model's fair order. If none waits, the bell's own: its lease may have run out, and
    if not, the refusal says what became of it."""
    passing: str | None = None
    own: Refusal | None = None
    with runtime.taking:  # bells that come together find the jobs in their order, so that most get their own
        while (chosen := _next_job(runtime, passing)) is not None:
            passing = chosen
            claim = _try_to_claim(runtime, chosen)
            if claim is None:
                continue
            if isinstance(claim, Claim) or claim.outcome is ClaimOutcome.SUSPECT:
                return claim
            if claim.outcome is ClaimOutcome.BUSY:
                passing = None  # another worker has it; if it gives it back, it may be the next again
            if chosen == job_id:
                own = claim
            else:
                _tell("job not taken", claim)
    return own or _claim(runtime, job_id)


def _tell(event: str, refusal: Refusal) -> None:
    tell = log.error if refusal.outcome is ClaimOutcome.DAMAGED else log.info
    tell(event, job_id=refusal.job_id, outcome=refusal.outcome.value)


def _next_job(runtime: Runtime, passing: str | None) -> str | None:
    model = runtime.settings.served_name
    return until_answered("next", lambda: runtime.ledger.next_job(model, passing=passing), runtime.giving_up)


def _try_to_claim(runtime: Runtime, job_id: str, *, alone: bool = False) -> Claim | Refusal | None:
    """None if that cannot be done: the others must not wait behind it."""
    try:
        return _claim(runtime, job_id, alone=alone)
    except GivenUp:
        raise
    except Exception as error:
        log_bug("a job could not be claimed", error, job_id=job_id)
        return None


def _claim(runtime: Runtime, job_id: str, *, alone: bool = False) -> Claim | Refusal:
    claim_id = uuid.uuid4().hex
    lease_seconds = runtime.settings.lease_seconds
    claim = until_answered(
        "claim",
        lambda: runtime.ledger.claim(
            job_id,
            runtime.worker_id,
            lease_seconds=lease_seconds,
            claim_id=claim_id,
            recipe=runtime.recipe,
            alone=alone,
        ),
        runtime.giving_up,
    )
    if isinstance(claim, Refusal) and claim.outcome is ClaimOutcome.OTHER_RECIPE:
        # Whoever has those weights may be busy or restarting. If nobody has them any more, its stream cannot go on.
        alive = until_answered("workers", runtime.registry.workers, runtime.giving_up)
        if not any(beat.state == "loading" and beat.model == runtime.settings.served_name for beat in alive):
            recipes = {beat.recipe for beat in alive if beat.recipe is not None}
            until_answered("strand", lambda: runtime.ledger.strand(job_id, recipes), runtime.giving_up)
    return claim


def _show(task: Any, job_id: str) -> None:
    """Flower knows a task by the job whose bell it was: tell it which job is served."""
    try:
        task.send_event("task-started", retry=False, args=f"('{job_id}',)")
    except Exception as error:  # whatever kombu or redis-py raise: the dashboard shows the other id
        log.warning("task event not sent", job_id=job_id, error=type(error).__name__)


def run_benchmark(runtime: Runtime, call_id: str, test_type: str, iterations: int) -> dict[str, Any]:
    """Measure, and leave the answer for whoever asked; if Redis is away, they hear that no answer came."""
    try:
        result = runtime.benchmark(BenchmarkType(test_type), iterations)
        answer = BenchmarkAnswer(result=result)
    except WoollyError as error:
        answer = BenchmarkAnswer(error=ErrorInfo.of(error))
    except Exception as error:
        log_bug("a benchmark failed", error, call_id=call_id)
        answer = BenchmarkAnswer(error=ErrorInfo.of(InternalError("the benchmark failed")))
    try:
        runtime.registry.answer(call_id, answer)
    except LedgerUnavailable as error:
        log.warning("benchmark not answered", call_id=call_id, reason=error.message)
    if answer.result is None:
        return {"error": answer.error.code if answer.error else None}
    return {"test_type": test_type, "average_time_ms": round(answer.result.average_time_ms, 3)}


def _start(runtime: Runtime, claim: Claim) -> "Future[Outcome]":
    """Hands the job to the engine."""
    n_prompt = 0
    try:
        request = _engine_request(runtime, claim)
        n_prompt = len(request.prompt_ids)
        waiter = runtime.publisher.track(claim, n_prompt)
        try:
            runtime.engine.submit(request)
        except BaseException:
            runtime.publisher.untrack(claim)
            raise
    except Exception as error:
        waiter = Future()
        waiter.set_result(_not_started(runtime, claim, error, n_prompt))
    return waiter


def _run_alone(runtime: Runtime, claim: Claim) -> Outcome:
    """A job on probation, in solitude."""
    key = (claim.job_id, claim.fence)
    n_prompt = 0
    runtime.solitude.admit(key)  # from here on a cancel is remembered
    waiter = runtime.publisher.track(claim)
    log.info("on probation", job_id=claim.job_id, crashes=claim.crashes, tokens=claim.last_seq, until=claim.alone_until)
    try:
        with _patience(runtime, key):
            request = _engine_request(runtime, claim)
            n_prompt = len(request.prompt_ids)
            runtime.publisher.count_prompt(claim, n_prompt)
            runtime.engine.submit(request)
        if runtime.solitude.is_cancelled(key):  # which ends with the solitude
            runtime.engine.cancel(*key)
        if claim.alone_until is None:  # it has passed at another worker since it was looked at
            runtime.solitude.leave(key)
        return waiter.result()
    except Exception as error:
        runtime.publisher.untrack(claim)
        return _not_started(runtime, claim, error, n_prompt)


@contextlib.contextmanager
def _patience(runtime: Runtime, key: tuple[str, int]) -> Iterator[None]:
    """A prompt that takes for ever is not waited for by all the others: its lease has run out long before."""
    passed = (ProbationPassed(*key),)
    timer = threading.Timer(2 * runtime.settings.lease_seconds, runtime.publisher.put, args=(passed,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _engine_request(runtime: Runtime, claim: Claim) -> EngineRequest:
    return EngineRequest(
        job_id=claim.job_id,
        fence=claim.fence,
        prompt_ids=runtime.prompt_ids(claim),
        sampling=claim.request.sampling,
        resume_ids=claim.token_ids,
        deadline_seconds=claim.deadline_remaining_seconds,
        alone_until=claim.alone_until,
    )


def _not_started(runtime: Runtime, claim: Claim, error: Exception, n_prompt: int) -> Outcome:
    """How it goes on with a claimed job that did not reach the engine. `n_prompt`: 0 if its prompt was not counted."""
    if isinstance(error, EngineStopped):
        return _give_back(runtime, claim)
    if not isinstance(error, WoollyError):
        log_bug("a job could not be started", error, job_id=claim.job_id)
        error = InternalError("the worker could not start this job")
    return _refuse(runtime, claim, error, n_prompt)


def _give_back(runtime: Runtime, claim: Claim) -> Outcome:
    """The engine ended between the claim and now, or does not get to it any more: no fault of the job."""
    released = until_answered(
        "release",
        lambda: runtime.ledger.release(claim.job_id, claim.fence, claim.request.model),
        runtime.giving_up,
    )
    return Outcome(
        OutcomeKind.RELEASED if released.reply is Reply.OK else OutcomeKind.FENCED,
        bell=released.bell,
    )


def _refuse(runtime: Runtime, claim: Claim, error: WoollyError, n_prompt: int) -> Outcome:
    """Ends a claimed job that never reached the engine."""
    n_tokens = len(claim.token_ids)
    event = FailedEvent(
        seq=n_tokens + 1,
        state=JobState.FAILED,
        error=ErrorInfo.of(error),
        usage=Usage.of(n_prompt, n_tokens),
    )
    finish = Finish(claim.job_id, claim.fence, claim.request.model, event, claim.token_ids, claim.text)
    finished = until_answered("finish", lambda: runtime.ledger.finish(finish), runtime.giving_up)
    if finished.reply is Reply.OK:
        return Outcome(OutcomeKind.FINISHED, event.state, finished.result)
    return Outcome(OutcomeKind.FENCED)


def _report(job_id: str, outcome: Outcome) -> dict[str, Any]:
    if outcome.result is None or outcome.state is None:
        log.info("job left", job_id=job_id, outcome=outcome.kind.value)
        return {"outcome": outcome.kind.value}
    log_job(job_id, outcome.state, outcome.result)
    if outcome.state is JobState.FAILED and outcome.result.error is not None:
        raise JobFailed(outcome.result.error.code)
    return summary(outcome.state, outcome.result)


def summary(state: JobState, result: JobResult) -> dict[str, Any]:
    """What Flower shows as the task's result."""
    metrics = result.metrics
    fields: dict[str, Any] = {
        "state": state.value,
        "tokens": result.usage.completion_tokens,
        "prompt_tokens": result.usage.prompt_tokens,
        "ttft_seconds": metrics.time_to_first_token_seconds,
        "tokens_per_second": metrics.decode_tokens_per_second,
        "queue_wait_seconds": metrics.queue_wait_seconds,
        "attempts": metrics.attempts,
    }
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
