"""/v1/completions and /v1/chat/completions, plain and streamed, as OpenAI's clients expect them.

Both submit a job and follow it. A client that leaves before the end cancels it, unless it gave an Idempotency-Key: the
point of a key is that a client whose connection broke may come again. It finds the same job, and follows it from the
beginning, through any replica; only when nobody does for a while the job is cancelled (see ledger/keys.py).

What goes wrong before the first byte is an HTTP error, later it is an error event in the stream, without a [DONE].
While the server stops, running jobs may finish within its grace time; those that wait for a worker, and what is left
then, end with a 503 that may be retried.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from woolly_api import idempotency, sse
from woolly_api.error_info import error_from_info, info_of
from woolly_api.errors import error_body
from woolly_api.idempotency import IdempotencyKey
from woolly_api.routes.openai_answers import Answer, ChatAnswer, CompletionAnswer
from woolly_api.routes.openai_requests import ChatCompletionRequest, CompletionRequest
from woolly_api.routes.openai_shapes import ChatCompletion, ChatCompletionChunk, Completion
from woolly_api.services import Injected, Services
from woolly_api.telemetry import note, request_id_of
from woolly_api.watching import AnyEvent, ClientGone, steady_events, while_connected
from woolly_worker.contract.errors import CapacityError, WoollyError
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.records import Once, Submitted

router = APIRouter(prefix="/v1", tags=["OpenAI"])
optimized = APIRouter(prefix="/api/v1/optimized", tags=["Performance"])

CLIENT_CLOSED_REQUEST = 499  # nginx's word for it; nobody reads the answer, but the log line shows it


def _responses(answer: type[Any], chunk: type[Any]) -> dict[int | str, dict[str, Any]]:
    example = f'data: {{"id": "...", "object": "{chunk.model_fields["object"].default}", ...}}\n\ndata: [DONE]\n\n'
    return {
        200: {
            "model": answer,
            "description": "The completion; with `stream`, chunks as server-sent events, closed by `[DONE]`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": example}},
        },
        **idempotency.RESPONSES,
    }


@optimized.post(
    "/completions",
    summary="Complete a prompt (the earlier program's address)",
    response_model=None,
    responses=_responses(Completion, Completion),
)
@router.post(
    "/completions",
    summary="Complete a prompt",
    response_model=None,
    responses=_responses(Completion, Completion),
)
async def completions(request: Request, services: Injected, body: CompletionRequest, key: IdempotencyKey) -> Response:
    """OpenAI's legacy completions. Extensions: top_k, min_p, repetition_penalty, ignore_eos, priority,
    deadline_seconds. Parameters that Woolly does not have are refused by name."""
    answer = CompletionAnswer(model=body.model, logprobs=body.logprobs, include_usage=body.include_usage)
    return await _respond(request, services, body, answer, idempotency.once(key, "completions", body))


@optimized.post(
    "/chat/completions",
    summary="Continue a conversation (the earlier program's address)",
    response_model=None,
    responses=_responses(ChatCompletion, ChatCompletionChunk),
)
@router.post(
    "/chat/completions",
    summary="Continue a conversation",
    response_model=None,
    responses=_responses(ChatCompletion, ChatCompletionChunk),
)
async def chat_completions(
    request: Request, services: Injected, body: ChatCompletionRequest, key: IdempotencyKey
) -> Response:
    """OpenAI's chat completions, through the model's own chat template. Extensions and refusals as for completions."""
    n_top = (body.top_logprobs or 0) if body.logprobs else None
    answer = ChatAnswer(model=body.model, logprobs=n_top, include_usage=body.include_usage)
    return await _respond(request, services, body, answer, idempotency.once(key, "chat.completions", body))


async def _respond(
    request: Request,
    services: Services,
    body: CompletionRequest | ChatCompletionRequest,
    answer: Answer,
    once: Once | None,
) -> Response:
    try:
        submitted = await services.submit(body.to_job(), once=once, followed=True)
    except WoollyError as error:
        error.param = body.own_name(error.param)
        raise
    job_id, replayed = submitted.job_id, {"replayed": True} if submitted.replayed else {}
    note(request.scope, job_id=job_id, model=body.model, stream=body.stream, **replayed)
    feed = sse.Feed(steady_events(services, job_id, 0))
    run = _Run(request, services, body, submitted, feed, answer.for_job(job_id), may_return=once is not None)
    try:
        if not body.stream:
            return await while_connected(request, run.whole())
        first = await while_connected(request, run.first())
    except ClientGone:
        await run.close()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except BaseException:
        await run.close()
        raise
    return sse.EventStream(
        run.frames(first), on_close=run.close, headers=run.headers(), on_open=services.metrics.streams.inc
    )


class _Run:
    """One job on behalf of one waiting client. Closed before the job's end, it cancels the job, unless the client
    `may_return`."""

    def __init__(
        self,
        request: Request,
        services: Services,
        body: CompletionRequest | ChatCompletionRequest,
        submitted: Submitted,
        feed: sse.Feed[AnyEvent],
        answer: Answer,
        *,
        may_return: bool,
    ) -> None:
        self._request = request
        self._services = services
        self._body = body
        self._submitted = submitted
        self._may_return = may_return
        self._feed = feed
        self._answer = answer
        self._ended = False
        self._queued = False  # waits for a worker, as far as is known
        self._stop_at: float | None = None

    async def close(self) -> None:
        if not self._ended:
            self._ended = True
            if not self._may_return:
                self._services.abandon(self._submitted.job_id)
        await self._feed.aclose()

    async def whole(self) -> Response:
        """The answer of a plain request: everything at once, or the job's error as an HTTP error."""
        tokens: list[TokenEvent] = []
        while True:
            event = await self._next(self._services.settings.heartbeat_seconds)
            if isinstance(event, TokenEvent):
                tokens.append(event)
            elif isinstance(event, DoneEvent):
                await self.close()
                body = self._answer.whole(tokens, event)
                return Response(body, media_type="application/json", headers=self.headers())

    async def first(self) -> TokenEvent | DoneEvent | None:
        """The first event that adds to the answer, or None when it does not come within `first_byte_seconds`."""
        loop_time = asyncio.get_running_loop().time
        deadline = loop_time() + self._services.settings.first_byte_seconds
        while (left := deadline - loop_time()) > 0:
            event = await self._next(left)
            if event is not None and not isinstance(event, StateEvent):
                return event
        return None

    async def frames(self, first: TokenEvent | DoneEvent | None) -> AsyncIterator[bytes]:
        """The stream of a streamed request. Whoever reads it closes this run behind it."""
        try:
            for chunk in self._answer.opening():
                yield sse.frame(chunk)
            event: AnyEvent | None = first
            while True:
                if isinstance(event, TokenEvent):
                    for chunk in self._answer.token(event):
                        yield sse.frame(chunk)
                elif isinstance(event, DoneEvent):
                    for chunk in self._answer.done(event):
                        yield sse.frame(chunk)
                    yield sse.DONE
                    return
                else:
                    yield _sign_of_life(event)
                event = await self._next(self._services.settings.heartbeat_seconds)
        except WoollyError as error:
            note(self._request.scope, error=error.code)
            request_id = request_id_of(self._request.scope)
            body = error_body(info_of(error), request_id=request_id, path=self._request.url.path)
            yield sse.frame(sse.json_line(body))

    async def _next(self, timeout_seconds: float) -> TokenEvent | StateEvent | DoneEvent | None:
        """The next event; a job that did not succeed raises its error. So does one that will not end before this
        server does: its client may ask another server. `close` cancels it here, or with a key leaves it to that one."""
        stopping = self._services.stopping
        if not stopping.is_set():
            event = await self._feed.get(timeout_seconds, unless=stopping)
        else:
            left = self._time_left()
            if self._queued or left <= 0:
                raise CapacityError("this server is stopping and the answer is not complete; ask again")
            event = await self._feed.get(min(timeout_seconds, left))
        if isinstance(event, StateEvent):
            self._queued = event.state is JobState.QUEUED
        elif event is not None:
            self._queued = False
        if isinstance(event, DoneEvent):
            self._ended = True
        if isinstance(event, FailedEvent):
            self._ended = True
            error = error_from_info(event.error)
            error.param = self._body.own_name(error.param)
            raise error
        return event

    def _time_left(self) -> float:
        """Until shortly before a server that stops closes its connections."""
        now = asyncio.get_running_loop().time()
        if self._stop_at is None:
            grace = self._services.settings.shutdown_grace_seconds
            self._stop_at = now + grace - min(1.0, grace / 4)
        return self._stop_at - now

    def headers(self) -> dict[str, str]:
        replayed = idempotency.REPLAYED if self._submitted.replayed else {}
        return {"X-Woolly-Job-Id": self._submitted.job_id, **replayed}


def _sign_of_life(event: StateEvent | FailedEvent | None) -> bytes:
    """A comment: the time without tokens is waiting in the queue or prefill."""
    if isinstance(event, StateEvent):
        progress = "" if event.prefill_total is None else f" prefill {event.prefill_done}/{event.prefill_total}"
        return sse.comment(f"{event.state}{progress}")
    return sse.HEARTBEAT
