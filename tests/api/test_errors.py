"""One table: every WoollyError has a row, a status, and a body that two kinds of client can read."""

import httpx
import pytest

from woolly_api.error_info import class_of, error_from_info, info_of
from woolly_api.errors import TABLE, error_body, invalid_request
from woolly_worker.contract import errors as e
from woolly_worker.contract.jobs import ErrorInfo

ALL = [cls for cls in vars(e).values() if isinstance(cls, type) and issubclass(cls, e.WoollyError)]


@pytest.mark.parametrize("cls", ALL)
def test_every_error_has_a_row_of_its_own(cls: type[e.WoollyError]) -> None:
    assert cls in TABLE


@pytest.mark.parametrize("cls", ALL)
def test_every_error_survives_the_wire(cls: type[e.WoollyError]) -> None:
    error = cls("5 is above 4", param="n", details={"limit": 4})
    back = error_from_info(ErrorInfo.model_validate_json(info_of(error).model_dump_json()))
    assert back.code == error.code
    assert back.http_status == error.http_status
    assert (back.param, back.details) == ("n", {"limit": 4})
    if cls not in (e.InternalError, e.WoollyError):
        assert back.message == "5 is above 4"


def test_an_unknown_code_is_kept() -> None:
    error = error_from_info(ErrorInfo(code="moon_phase", message="waning", http_status=503))
    assert type(error) is e.InternalError
    assert error.details["code"] == "moon_phase"
    assert class_of("moon_phase") is None


def test_our_bugs_keep_their_words_to_our_log() -> None:
    assert "secret" not in info_of(e.InternalError("secret path /root")).message


@pytest.mark.parametrize(("path", "type_"), [("/v1/jobs", "invalid_request_error"), ("/api/v1/x", "model_not_found")])
def test_the_type_is_in_the_vocabulary_of_the_surface(path: str, type_: str) -> None:
    body = error_body(info_of(e.ModelNotFound("no", param="model")), request_id="req_1", path=path)["error"]
    assert body["type"] == type_
    assert body["code"] == "model_not_found"
    assert body["status"] == 404
    assert body["request_id"] == "req_1"
    assert set(body) >= {"message", "type", "code", "param", "status", "details", "request_id", "timestamp"}
    assert "GET /v1/models" in body["suggestion"]


def test_a_validation_message_never_quotes_text() -> None:
    secret = "the prompt"
    items = [
        {"type": "int_type", "loc": ("body", "prompt"), "msg": "must be a number", "input": secret},
        {"type": "less_than", "loc": ("body", "n"), "msg": "must be below 5", "input": 7},
    ]
    error = invalid_request(items)
    assert secret not in error.message
    assert "a string of 10 characters" in error.message
    assert "must be below 5 (given: 7)" in error.message
    assert error.param == "prompt"
    assert error.details["fields"] == ["prompt", "n"]


def test_a_job_hears_of_sampling_parameters_where_it_has_them(http: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 5, "sampling": {"max_token": 5}}
    error = http.post("/v1/jobs", json=body).json()["error"]
    assert error["details"]["fields"] == ["sampling.max_token", "max_tokens"]
    assert "max_tokens: unknown parameter; a job has it as sampling.max_tokens" in error["message"]
    assert "sampling.max_token: unknown parameter;" in error["message"]


def test_an_unknown_field_is_named_where_it_stands(http: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 5}
    assert http.post("/v1/jobs", json=body).json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/completions"])
@pytest.mark.parametrize("name", ["body", "query"])
def test_a_field_may_have_the_name_of_a_part_of_the_request(http: httpx.Client, path: str, name: str) -> None:
    refused = http.post(path, json={"model": "tiny", "prompt": "x", name: 1})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["message"]) == (name, f"{name}: unknown parameter")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/abc/events", "/v1/completions"])
def test_the_hint_names_the_field_of_the_surface(path: str) -> None:
    error = error_body(info_of(e.ContextOverflow("too long")), request_id="req_1", path=path)["error"]
    field = "max_tokens" if path == "/v1/completions" else "sampling.max_tokens"
    assert error["suggestion"] == f"Shorten the prompt or lower {field}."


def test_routes_that_are_none(http: httpx.Client) -> None:
    missing = http.get("/v2/jobs")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "route_not_found"
    wrong = http.delete("/v1/jobs")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert "GET" in wrong.headers["Allow"] or "POST" in wrong.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/jobs?limt=1", "limt"),
        ("GET", "/v1/jobs?limit=1&state=queued&modell=x", "modell"),
        ("POST", "/v1/jobs?wait=1", "wait"),
        ("GET", "/v1/jobs/abc?waits=1", "waits"),
        ("GET", "/v1/jobs/abc/events?last_event_id=1", "last_event_id"),
        ("POST", "/v1/jobs/abc/cancel?now=1", "now"),
        ("POST", "/v1/completions?foo=1", "foo"),
        ("POST", "/v1/chat/completions?foo=", "foo"),
        ("POST", "/api/v1/optimized/chat/completions?foo=1", "foo"),
        ("GET", "/v1/models?page=2", "page"),
        ("GET", "/v1/models/org/name?page=2", "page"),
        ("GET", "/api/v1/performance/stats?%ED%A0%80=1", "\ufffd\ufffd\ufffd"),
    ],
)
def test_an_unknown_query_parameter_is_refused_by_name(http: httpx.Client, method: str, path: str, name: str) -> None:
    refused = http.request(method, path, json={"model": "tiny", "prompt": "x"} if method == "POST" else None)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", name)
    assert f"{name}: unknown query parameter" in error["message"]


def test_known_query_parameters_are_taken(http: httpx.Client) -> None:
    assert http.get("/v1/jobs?limit=1&state=queued&model=x").status_code == 200
    assert http.get("/v1/jobs/nope?wait=0").status_code == 404
    assert http.get("/v1/jobs/nope/events?after=0").status_code == 404


def test_the_root_leads_to_the_documentation(http: httpx.Client) -> None:
    answer = http.get("/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/docs")
    assert "/" not in http.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit(http: httpx.Client, chunked: bool) -> None:
    body = b'{"prompt": "' + b"x" * (11 * 1024 * 1024) + b'"}'
    content = (body[i : i + 65536] for i in range(0, len(body), 65536)) if chunked else body
    refused = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "body_too_large"
    assert "10485760" in refused.json()["error"]["message"]


def test_request_ids_are_echoed_or_made(http: httpx.Client) -> None:
    given = http.get("/v1/jobs/nope", headers={"X-Request-Id": "mine-7"})
    assert given.headers["X-Request-Id"] == given.json()["error"]["request_id"] == "mine-7"
    made = http.get("/healthz").headers["X-Request-Id"]
    assert made.startswith("req_")
    hostile = http.get("/healthz", headers={"X-Request-Id": "a b<script>"}).headers["X-Request-Id"]
    assert hostile.startswith("req_")


def test_browsers_of_any_origin_may_call(http: httpx.Client) -> None:
    headers = {"Origin": "https://ole.example", "Access-Control-Request-Method": "POST"}
    preflight = http.options("/v1/jobs", headers=headers)
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert preflight.headers["Access-Control-Max-Age"] == "3600"
