"""WoollyClient: the API for Python callers, and for the command line.

Every failure is a WoollyError, of the same class that the server or the worker raised. `events` reconnects by itself
and yields each event once. Needs httpx and the contract, nothing else of Woolly.
"""

import ipaddress
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from woolly_api.error_info import error_from_info
from woolly_worker.contract.errors import CapacityError, InternalError, InvalidRequest, LedgerUnavailable, WoollyError
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent, job_event_adapter
from woolly_worker.contract.idempotency import HEADER, checked_key
from woolly_worker.contract.jobs import ErrorInfo, JobRequest, JobView
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.contract.timeline import Timeline

DEFAULT_URL = "http://127.0.0.1:8080"
POLL_SECONDS = 30.0
RECONNECT_SECONDS = 0.5

Event = TokenEvent | StateEvent | DoneEvent | FailedEvent


class ApiUnavailable(CapacityError):
    """Nothing that speaks Woolly answers at this address."""

    code = "api_unavailable"


class JobInfo(JobView):
    """A JobView of this server's version or a newer one: fields that are not known here are skipped."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    timeline: Timeline | None = None  # if it was asked for


class ModelInfo(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    created: int
    workers: int
    woolly: dict[str, Any]


class WoollyClient:
    """Safe to share between threads. Close it, or use it as a context manager."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout_seconds: float = 10.0,
        quiet_seconds: float = 60.0,
        patience_seconds: float = 120.0,
    ) -> None:
        """`quiet_seconds`: a stream without a sign of life for so long is opened again. `patience_seconds`: how long
        `submit`, `wait` and `events` put up with a server that is away."""
        self.base_url = base_url
        # Loopback is never reached through a proxy, whatever the environment says about one.
        self._http = httpx.Client(base_url=base_url, timeout=timeout_seconds, trust_env=not _is_loopback(base_url))
        self._quiet_seconds = quiet_seconds
        self._patience_seconds = patience_seconds

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, request: JobRequest, *, idempotency_key: str | None = None) -> JobInfo:
        """Hand in a job. While the server is away it is handed in again under the same key, a fresh one unless given:
        however often the answer is lost, it is one job."""
        key = uuid.uuid4().hex if idempotency_key is None else checked_key(idempotency_key)
        body = request.model_dump(mode="json", exclude_none=True)
        patience = _Patience(self._patience_seconds)
        while True:
            try:
                return self._job("POST", "/v1/jobs", json=body, headers={HEADER: key})
            except (ApiUnavailable, LedgerUnavailable) as error:
                patience.spend(error)

    def get(self, job_id: str, *, timeline: bool = False) -> JobInfo:
        """`timeline`: with where its time went."""
        return self._job("GET", f"/v1/jobs/{job_id}", params={"timeline": True} if timeline else None)

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> JobInfo:
        """The job once it has ended, or as it is after `timeout_seconds`."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        patience = _Patience(self._patience_seconds)
        while True:
            left = POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(POLL_SECONDS, left)
            try:
                view = self._job("GET", f"/v1/jobs/{job_id}", params={"wait": round(seconds, 3)}, timeout=seconds + 10)
            except (ApiUnavailable, LedgerUnavailable) as error:
                patience.spend(error)
                continue
            patience.restore()
            if view.state in TERMINAL_STATES or (deadline is not None and time.monotonic() >= deadline):
                return view

    def events(self, job_id: str, after_seq: int = 0) -> Iterator[Event]:
        """What happens to the job behind `after_seq`: each token and the terminal event once, in order, and its state
        changes as news. Ends behind the terminal event."""
        patience = _Patience(self._patience_seconds)
        while True:
            try:
                for event in self._stream(job_id, after_seq):
                    patience.restore()
                    if not isinstance(event, StateEvent):
                        if event.seq <= after_seq:
                            continue
                        after_seq = event.seq
                    yield event
                    if isinstance(event, DoneEvent | FailedEvent):
                        return
            except _NothingFollows:
                return
            except (ApiUnavailable, LedgerUnavailable) as error:
                patience.spend(error)
            else:
                # The server ended the stream early, as it does when it stops: another one goes on.
                patience.spend(ApiUnavailable(f"{self.base_url} closed the stream before the job had ended"))

    def cancel(self, job_id: str) -> JobInfo:
        return self._job("POST", f"/v1/jobs/{job_id}/cancel")

    def jobs(self, *, state: JobState | None = None, model: str | None = None, limit: int = 50) -> list[JobInfo]:
        """The newest first."""
        params = {"state": state, "model": model, "limit": limit}
        body = self._request("GET", "/v1/jobs", params={k: v for k, v in params.items() if v is not None}).json()
        return [JobInfo.model_validate(job) for job in body["jobs"]]

    def models(self) -> list[ModelInfo]:
        body = self._request("GET", "/v1/models").json()
        return [ModelInfo.model_validate(model) for model in body["data"]]

    def _job(self, method: str, path: str, **options: Any) -> JobInfo:
        return JobInfo.model_validate(self._request(method, path, **options).json())

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._translated():
            response = self._http.request(method, path, **options)
            if response.is_error:
                raise _error_of(response)
            return response

    def _stream(self, job_id: str, after_seq: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)}
        timeout = httpx.Timeout(self._http.timeout.connect, read=self._quiet_seconds)
        with (
            self._translated(),
            self._http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as response,
        ):
            if response.is_error:
                response.read()
                raise _error_of(response)
            if response.status_code == httpx.codes.NO_CONTENT:
                raise _NothingFollows
            kind = ""
            # Our server writes each event's data on one line.
            for line in _lines(response.iter_text()):
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    if kind == "error":
                        raise _error_of_body(data)
                    yield job_event_adapter.validate_json(data)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise InvalidRequest("the request holds a lone surrogate, which is no text") from error
        except httpx.TimeoutException as error:
            raise ApiUnavailable(f"{self.base_url} does not answer in time") from error
        except httpx.TransportError as error:
            raise ApiUnavailable(f"no Woolly API answers at {self.base_url}: {error}") from error


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Lines as server-sent events have them. httpx's own also end at U+2028 and its like, which JSON leaves as they
    are in a text."""
    begun: list[str] = []
    for piece in pieces:
        *ended, rest = piece.split("\n")
        for line in ended:
            yield "".join([*begun, line])
            begun.clear()
        begun.append(rest)


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _NothingFollows(Exception):
    """The reader has seen the terminal event already."""


class _Patience:
    """How long a server may be away before the caller is told."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def restore(self) -> None:
        self._since = None

    def spend(self, error: WoollyError) -> None:
        """Sleeps a little, or raises `error` when patience is over."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since >= self._seconds:
            raise error
        time.sleep(min(RECONNECT_SECONDS, self._seconds))


def _error_of(response: httpx.Response) -> WoollyError:
    error = _error_of_body(response.text, response.status_code)
    if isinstance(error, CapacityError) and response.headers.get("Retry-After", "").isdigit():
        error.retry_after_seconds = float(response.headers["Retry-After"])
    return error


def _error_of_body(text: str, status: int = 500) -> WoollyError:
    """The WoollyError in an error body; whatever else answered is named by its status alone."""
    try:
        body = _ErrorBody.model_validate_json(text).error
    except ValidationError:
        return InternalError(f"HTTP {status} from something that is not a Woolly API")
    return error_from_info(
        ErrorInfo(
            code=body.code,
            message=body.message,
            http_status=body.status,
            param=body.param,
            details={**body.details, "request_id": body.request_id},
        )
    )


class _ErrorFields(BaseModel):
    model_config = ConfigDict(extra="ignore")

    code: str
    message: str
    status: int
    request_id: str
    param: str | None = None
    details: dict[str, Any] = {}


class _ErrorBody(BaseModel):
    error: _ErrorFields
