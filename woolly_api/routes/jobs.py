"""/v1/jobs: hand in a job, ask about it, list, cancel. The native surface; `stream.py` has the events."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from woolly_api import idempotency
from woolly_api.idempotency import IdempotencyKey
from woolly_api.services import Injected, Services
from woolly_api.telemetry import note
from woolly_api.watching import ClientGone, while_connected
from woolly_worker.contract.errors import LedgerUnavailable
from woolly_worker.contract.jobs import JobRequest, JobView
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.contract.timeline import Timeline

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

MAX_LISTED = 500

JobId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="as given at submit")]


class JobLinks(BaseModel):
    self: str
    events: str
    cancel: str


class JobAnswer(JobView):
    """A job as this API shows it."""

    links: JobLinks

    @classmethod
    def of(cls, view: JobView) -> "JobAnswer":
        path = f"/v1/jobs/{view.id}"
        links = JobLinks(self=path, events=f"{path}/events", cancel=f"{path}/cancel")
        return cls(**{name: getattr(view, name) for name in JobView.model_fields}, links=links)


class TimedJobAnswer(JobAnswer):
    """With `timeline=true`."""

    timeline: Timeline = Field(description="where its time went")


class JobList(BaseModel):
    jobs: list[JobAnswer] = Field(description="newest first")


EXAMPLES: dict[str, Any] = {
    "prompt": {
        "summary": "A prompt",
        "value": {
            "model": "demo",
            "prompt": "Once upon a time",
            "sampling": {"max_tokens": 64, "temperature": 0.8, "seed": 7},
        },
    },
    "chat": {
        "summary": "A conversation, urgent, with a deadline",
        "value": {
            "model": "demo",
            "messages": [{"role": "user", "content": "What is 2 + 3?"}],
            "sampling": {"max_tokens": 16, "temperature": 0},
            "priority": 0,
            "deadline_seconds": 60,
        },
    },
}


async def _job_requested(request: Request, job: JobRequest) -> JobRequest:
    """FastAPI takes "5" for 5 where a model allows it, and cannot ask otherwise; so the JSON itself is looked at."""
    try:
        return JobRequest.model_validate_json(await request.body(), strict=True)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


@router.post("", status_code=202, summary="Submit a job", response_model=JobAnswer, responses=idempotency.RESPONSES)
async def submit(
    request: Request,
    response: Response,
    services: Injected,
    job: Annotated[JobRequest, Depends(_job_requested)],
    key: IdempotencyKey,
) -> JobAnswer:
    """Records the job and answers at once. It will be run, also if everything is restarted in between. Whoever did not
    get the answer asks again with the same `Idempotency-Key`, and gets the job as it is by then."""
    submitted = await services.submit(job, once=idempotency.once(key, "jobs", job))
    job_id = submitted.job_id
    note(request.scope, job_id=job_id, model=job.model, **({"replayed": True} if submitted.replayed else {}))
    if submitted.replayed:
        response.headers.update(idempotency.REPLAYED)
    try:
        (view,) = await services.forecast.told([await services.reader.view(job_id)])
    except LedgerUnavailable:
        if submitted.replayed:  # asked again, it gives the job as it is by then
            raise
        # Recorded is recorded: Redis went away a moment later, and a 503 would have the caller hand it in twice.
        view = JobView(
            id=job_id,
            state=JobState.QUEUED,
            model=job.model,
            priority=job.priority,
            tenant=job.tenant,
            metadata=job.metadata,
            created_at=time.time(),
        )
    answer = JobAnswer.of(view)
    response.headers["Location"] = answer.links.self
    return answer


@router.get("", summary="List jobs", response_model=JobList)
async def list_jobs(
    services: Injected,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    model: Annotated[str | None, Query(max_length=200, description="only jobs for this model")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
) -> JobList:
    """Open jobs and finished ones whose record is still kept; filters look at the newest 500."""
    filtered = state is not None or model is not None
    views = await services.reader.jobs(limit=MAX_LISTED if filtered else limit)
    wanted = [view for view in views if state in (None, view.state) and model in (None, view.model)]
    return JobList(jobs=[JobAnswer.of(view) for view in await services.forecast.told(wanted[:limit])])


@router.get("/{job_id}", summary="Look at a job", response_model=TimedJobAnswer | JobAnswer)
async def look(
    request: Request,
    services: Injected,
    job_id: JobId,
    wait: Annotated[
        float,
        Query(
            ge=0,
            allow_inf_nan=False,
            description="answer when the job has ended, or after so many seconds with the state it has then; the "
            "server's `max_wait_seconds` (60) is the longest wait",
        ),
    ] = 0.0,
    timeline: Annotated[
        bool,
        Query(
            description="tell where the time went: waits, prefill chunks, decode, stalls by cause, attempts. An "
            "attempt is told in detail when it is over"
        ),
    ] = False,
) -> JobAnswer:
    view = await services.reader.view(job_id)
    if wait > 0 and view.state not in TERMINAL_STATES:
        try:
            await while_connected(request, _ended(services, job_id, min(wait, services.settings.max_wait_seconds)))
        except ClientGone:
            note(request.scope, client_gone=True)  # the answer below reaches nobody; the job goes on
        view = await services.reader.view(job_id)
    (told,) = await services.forecast.told([view])
    answer = JobAnswer.of(told)
    if timeline:  # read behind the view: a job that has ended there has ended here
        answer = TimedJobAnswer(**dict(answer), timeline=await services.reader.timeline(job_id))
    return answer


async def _ended(services: Services, job_id: str, seconds: float) -> None:
    """Until the job has ended, the time is over, or this server stops."""
    ended = asyncio.ensure_future(services.reader.wait_terminal(job_id, seconds))
    stopping = asyncio.ensure_future(services.stopping.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
    finally:
        for task in (ended, stopping):
            task.cancel()
        await asyncio.wait({ended, stopping})


@router.post("/{job_id}/cancel", summary="Cancel a job", response_model=JobAnswer)
async def cancel(request: Request, services: Injected, job_id: JobId) -> JobAnswer:
    """A waiting job ends at once, a running one within a step of its worker; an ended one is left as it is.
    The answer shows the state it has now, and `cancel_requested`."""
    await services.cancel(job_id)
    note(request.scope, job_id=job_id)
    return JobAnswer.of(await services.reader.view(job_id))
