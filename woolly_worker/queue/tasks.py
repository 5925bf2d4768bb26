"""The Celery task of a job: claim it, hand it to the engine, wait, report. A thin door. And that of a benchmark.

The task's result is a small dict for Flower. What a job said and why it failed is in the ledger.
"""

import uuid
from typing import Any

from woolly_worker.contract.benchmarks import BenchmarkAnswer, BenchmarkType
from woolly_worker.contract.errors import InternalError, LedgerUnavailable, WoollyError
from woolly_worker.contract.events import FailedEvent
from woolly_worker.contract.jobs import ErrorInfo, JobResult, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import EngineRequest, EngineStopped
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
        return run_job(app.runtime, job_id, self.request.id or job_id)

    @app.task(name=keys.TASK_BENCHMARK, acks_late=False)
    def benchmark(call_id: str, test_type: str, iterations: int) -> dict[str, Any]:
        return run_benchmark(app.runtime, call_id, test_type, iterations)


def run_job(runtime: Runtime, job_id: str, task_id: str) -> dict[str, Any]:
    """One attempt at a job. Its message is acknowledged in any case: a job that is not done is in the ledger, and
    whoever puts it back rings anew."""
    if runtime.engine_died:  # the reaper of another process rings again
        return {"outcome": OutcomeKind.ABANDONED.value}
    claim_id = uuid.uuid4().hex
    try:
        claim = until_answered(
            "claim",
            lambda: runtime.ledger.claim(
                job_id, runtime.worker_id, lease_seconds=runtime.settings.lease_seconds, claim_id=claim_id
            ),
            runtime.giving_up,
        )
        if isinstance(claim, Refusal):
            tell = log.error if claim.outcome is ClaimOutcome.DAMAGED else log.info
            tell("bell not answered", job_id=job_id, outcome=claim.outcome.value)
            return {"outcome": claim.outcome.value}
        with runtime.holding(task_id, claim):
            outcome = _run_claimed(runtime, claim)
    except GivenUp:
        return {"outcome": OutcomeKind.ABANDONED.value}  # the lease, or the reaper's look at its bell, decides
    except Exception as error:  # Celery would log its message, which may quote a prompt
        log_bug("an attempt at a job failed", error, job_id=job_id)
        return {"outcome": OutcomeKind.ABANDONED.value}
    if outcome.bell is not None:
        runtime.ring(outcome.bell)
    return _report(job_id, outcome)


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


def _run_claimed(runtime: Runtime, claim: Claim) -> Outcome:
    try:
        request = EngineRequest(
            job_id=claim.job_id,
            fence=claim.fence,
            prompt_ids=runtime.prompt_ids(claim),
            sampling=claim.request.sampling,
            resume_ids=claim.token_ids,
            deadline_seconds=claim.deadline_remaining_seconds,
        )
        waiter = runtime.publisher.track(claim)
        try:
            runtime.engine.submit(request)
        except BaseException:
            runtime.publisher.untrack(claim)
            raise
    except EngineStopped:
        return _give_back(runtime, claim)
    except WoollyError as error:
        return _refuse(runtime, claim, error)
    except Exception as error:
        log_bug("a job could not be started", error, job_id=claim.job_id)
        return _refuse(runtime, claim, InternalError("the worker could not start this job"))
    return waiter.result()


def _give_back(runtime: Runtime, claim: Claim) -> Outcome:
    """The engine ended between the claim and now: no fault of the job."""
    released = until_answered(
        "release",
        lambda: runtime.ledger.release(claim.job_id, claim.fence, claim.request.model),
        runtime.giving_up,
    )
    return Outcome(
        OutcomeKind.RELEASED if released.reply is Reply.OK else OutcomeKind.FENCED,
        bell=released.bell,
    )


def _refuse(runtime: Runtime, claim: Claim, error: WoollyError) -> Outcome:
    """Ends a claimed job that never reached the engine."""
    n_tokens = len(claim.token_ids)
    event = FailedEvent(
        seq=n_tokens + 1,
        state=JobState.FAILED,
        error=ErrorInfo.of(error),
        usage=Usage(completion_tokens=n_tokens, total_tokens=n_tokens),
    )
    finish = Finish(claim.job_id, claim.fence, claim.request.model, event, claim.token_ids, claim.text)
    finished = until_answered("finish", lambda: runtime.ledger.finish(finish), runtime.giving_up)
    if finished.reply is Reply.OK:
        return Outcome(OutcomeKind.FINISHED, JobState.FAILED, finished.result)
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
