"""/v1/jobs/{id}/events: a job's tokens as they come, resumable from any replica.

The event's seq is the SSE id, so a reader that reconnects with `Last-Event-ID` goes on with the next token, whichever
server it reaches. A reader who leaves changes nothing about the job.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from woolly_api import sse
from woolly_api.error_info import info_of
from woolly_api.errors import error_body
from woolly_api.routes.jobs import JobId
from woolly_api.services import Injected, Services
from woolly_api.telemetry import note, request_id_of
from woolly_api.watching import AnyEvent, steady_batches
from woolly_worker.contract.errors import WoollyError
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent
from woolly_worker.contract.states import TERMINAL_STATES

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

STREAM_EXAMPLE = (
    'id: 1\nevent: token\ndata: {"type":"token","seq":1,"token_id":310,"text":" park"}\n\n'
    ': heartbeat\n\nid: 2\nevent: done\ndata: {"type":"done","seq":2,"finish_reason":"stop", ...}\n\n'
)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`token` events, `state` events (news without an id), then one `done` or `failed` event.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}},
    },
    204: {"description": "The reader has seen the last event already; an EventSource stops asking."},
}


@router.get("/{job_id}/events", summary="Stream a job's events", response_class=Response, responses=RESPONSES)
async def events(
    request: Request,
    services: Injected,
    job_id: JobId,
    last_event_id: Annotated[int | None, Header(ge=0, description="resume behind this event")] = None,
    after: Annotated[int, Query(ge=0, description="the same, for clients that cannot set headers")] = 0,
) -> Response:
    after = last_event_id if last_event_id is not None else after
    note(request.scope, job_id=job_id, after=after)
    view = await services.reader.view(job_id)  # an unknown job is a real 404
    if view.state in TERMINAL_STATES and after > view.last_seq:
        return Response(status_code=204)
    feed = sse.Feed(steady_batches(services, job_id, after))
    frames = _frames(request, services, feed)
    return sse.EventStream(frames, on_close=feed.aclose, on_open=services.metrics.streams.inc)


async def _frames(request: Request, services: Services, feed: sse.Feed[list[AnyEvent]]) -> AsyncIterator[bytes]:
    try:
        yield b"retry: 1000\n\n"
        while not services.stopping.is_set():
            batch = await feed.get(services.settings.heartbeat_seconds, unless=services.stopping)
            if batch is None:
                yield sse.HEARTBEAT
                continue
            yield b"".join(map(event_frame, batch))  # one write, however far the client was behind
            if isinstance(batch[-1], DoneEvent | FailedEvent):
                return
    except WoollyError as error:
        # The stream has begun, so the status is spent: the error is an event without an id.
        body = error_body(info_of(error), request_id=request_id_of(request.scope), path=request.url.path)
        yield sse.frame(sse.json_line(body), event="error")
    except EOFError:
        return  # the record went away under the reader


def event_frame(event: AnyEvent) -> bytes:
    seq = None if isinstance(event, StateEvent) else event.seq
    return sse.frame(event.model_dump_json(exclude_none=True), event=event.type, id_=seq)
