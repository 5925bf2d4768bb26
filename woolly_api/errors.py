"""WoollyError -> HTTP response, one table.

The body is what the official OpenAI clients parse, with fields added for callers who want to know more:

    {"error": {"message", "type", "code", "param", "status", "details", "request_id", "timestamp", "suggestion"}}

`code` is the stable name from the contract. `type` is a coarser family: OpenAI's vocabulary under /v1, that of the
earlier program of the same name under /api. This file never quotes what a caller sent, except numbers: a prompt cannot
leak into an error or a log through it.
"""

import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from woolly_api.error_info import class_of, info_of
from woolly_api.telemetry import log, request_id_of
from woolly_worker.contract import errors as e
from woolly_worker.contract.jobs import NOT_ENCODABLE, ErrorInfo, SamplingParams


class Row(NamedTuple):
    """How one error class is presented."""

    openai_type: str
    ole_type: str
    suggestion: str | None = None


BAD_REQUEST = Row("invalid_request_error", "invalid_request")
SERVER = Row("server_error", "internal_server_error")

TABLE: dict[type[e.WoollyError], Row] = {
    e.WoollyError: SERVER,
    e.RequestError: BAD_REQUEST,
    e.InvalidRequest: BAD_REQUEST,
    e.InvalidBenchmarkType: BAD_REQUEST,
    e.ContextOverflow: Row("invalid_request_error", "validation_error", "Shorten the prompt or lower max_tokens."),
    e.IdempotencyKeyReused: Row("invalid_request_error", "validation_error", "Give each request a key of its own."),
    e.ModelNotFound: Row("invalid_request_error", "model_not_found", "GET /v1/models lists what can be asked for."),
    e.JobNotFound: Row("invalid_request_error", "job_not_found", "Results are kept for a limited time after the end."),
    e.CapacityError: Row("overloaded_error", "resource_unavailable", "Try again after Retry-After seconds."),
    e.QueueFull: Row("rate_limit_error", "rate_limit_exceeded", "Try again after Retry-After seconds."),
    e.PoolExhausted: Row("overloaded_error", "resource_unavailable", "Lower max_tokens, or enlarge the KV cache."),
    e.LedgerUnavailable: Row("overloaded_error", "resource_unavailable", "Redis is away; try again in a moment."),
    e.LedgerFull: Row("overloaded_error", "resource_unavailable", "Try again later, or give Redis more memory."),
    e.LedgerVersionMismatch: Row("overloaded_error", "resource_unavailable", "Upgrade what is older of the two."),
    e.NoWorker: Row("overloaded_error", "resource_unavailable", "Start a worker: woolly worker --model FILE.gguf."),
    e.BenchmarkRunning: Row("rate_limit_error", "rate_limit_exceeded", "Ask again when it is over."),
    e.BenchmarkTimeout: Row("timeout_error", "http_error", "Its slots may be taken by jobs; ask again later."),
    e.Interrupted: Row("interrupted_error", "http_error"),
    e.JobCancelled: Row("interrupted_error", "http_error"),
    e.DeadlineExceeded: Row("timeout_error", "http_error", "Give a later deadline, or a higher priority."),
    e.ModelReplaced: Row("interrupted_error", "http_error", "Ask again: the new model begins from the start."),
    e.ModelFileError: Row("server_error", "model_error", "The worker's model file must be replaced."),
    e.GGUFFormatError: Row("server_error", "model_error", "The worker's model file must be replaced."),
    e.UnsupportedArchitecture: Row("server_error", "model_error", "Serve a model of a supported architecture."),
    e.UnsupportedQuantization: Row("server_error", "model_error", "Serve the model in a supported quantization."),
    e.KernelMismatch: Row("server_error", "internal_server_error", "The worker's kernels must be compiled anew."),
    e.InternalError: Row("server_error", "internal_server_error", "Report it with the request id."),
    e.PoisonJob: Row("server_error", "internal_server_error", "Change the request: it ends its workers."),
}

# What HTTP itself refuses, before a route is reached.
HTTP_CODES = {404: "route_not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def error_body(info: ErrorInfo, *, request_id: str, path: str) -> dict[str, Any]:
    """The JSON body, and equally the data of an SSE error event."""
    row = TABLE.get(class_of(info.code) or e.WoollyError, SERVER)
    if row is SERVER and info.http_status < 500:
        row = BAD_REQUEST  # what HTTP itself refuses, and codes that a newer worker knows
    suggestion = row.suggestion
    if path.startswith("/v1/jobs"):
        suggestion = suggestion and suggestion.replace("max_tokens", "sampling.max_tokens")
    body: dict[str, Any] = {
        "message": info.message,
        "type": row.ole_type if path.startswith("/api/") else row.openai_type,
        "code": info.code,
        "param": info.param,
        "status": info.http_status,
        "details": info.details,
        "request_id": request_id,
        "timestamp": int(time.time()),
    }
    if suggestion:
        body["suggestion"] = suggestion
    return {"error": body}


def error_response(
    request: Request, info: ErrorInfo, *, retry_after: float = 1.0, headers: dict[str, str] | None = None
) -> JSONResponse:
    headers = dict(headers or {})
    if info.retryable:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    elif info.http_status >= 500:
        # The OpenAI clients try every 5xx three times unless told not to.
        headers["x-should-retry"] = "false"
    body = error_body(info, request_id=request_id_of(request.scope), path=request.url.path)
    return JSONResponse(body, status_code=info.http_status, headers=headers)


async def on_woolly_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, e.WoollyError)
    if isinstance(error, e.InternalError):
        log.error("internal error", request_id=request_id_of(request.scope), exc_info=error)
    retry_after = error.retry_after_seconds if isinstance(error, e.CapacityError) else 1.0
    return error_response(request, info_of(error), retry_after=retry_after)


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(request, info_of(invalid_request(error.errors())))


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = HTTP_CODES.get(status, "http_error")
    message = {
        404: f"No route {request.method} {request.url.path}.",
        405: f"{request.url.path} does not answer {request.method}.",
    }.get(status, str(error.detail))
    return error_response(
        request, ErrorInfo(code=code, message=message, http_status=status), headers=dict(error.headers or {})
    )


async def on_unforeseen(request: Request, error: Exception) -> JSONResponse:
    """Anything else is our bug: the traceback goes to our log, the client gets a code and the request id."""
    log.error("unforeseen error", request_id=request_id_of(request.scope), exc_info=error)
    return error_response(request, info_of(e.InternalError("unforeseen")))


def invalid_request(errors: Iterable[Any]) -> e.InvalidRequest:
    """One InvalidRequest out of pydantic's list of errors: each field by name, each number beside its limit."""
    by_param: dict[str, list[str]] = {}
    for item in errors:
        said = by_param.setdefault(_param(item), [])
        message = _message(item)
        if message not in said:
            said.append(message)
    lines = [f"{param}: {' / '.join(said)}" if param else " / ".join(said) for param, said in by_param.items()]
    first = next(iter(by_param), "") or None
    shown = lines[:5] + ([f"and {len(lines) - 5} more"] if len(lines) > 5 else [])
    return e.InvalidRequest(
        "; ".join(shown), param=first, details={"fields": [name for name in by_param if name][:100]}
    )


# Errors of a whole object that are about one of its fields: its name is in their context.
_NAMED = {"unsupported", "of_field"}
_UNION_BRANCHES = {"str", "int", "float", "bool", "dict", "list", "tuple", "constrained-int", "constrained-str"}


def _path(item: dict[str, Any]) -> list[str]:
    """`('body', 'sampling', 'top_p')` -> `['sampling', 'top_p']`. Only the first is cut: a field may be called body."""
    return [str(part) for part in item["loc"][1:]]


def _param(item: dict[str, Any]) -> str:
    """`sampling.top_p`; the names of a union's branches are not fields."""
    if item["type"] == "json_invalid":
        return ""  # what stands in `loc` is where the parser stopped
    parts = _path(item)
    if item["type"] in _NAMED:
        parts.append(str(item["ctx"]["name"]))
    return ".".join(part for part in parts if part not in _UNION_BRANCHES and not {"[", "("} & set(part))


def _message(item: dict[str, Any]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        name, *deeper = _path(item)
        # OpenAI's bodies know these names, so this is the body of a job.
        hint = "" if deeper or name not in SamplingParams.model_fields else f"; a job has it as sampling.{name}"
        return f"unknown parameter{hint}"
    if kind == "json_invalid":
        return f"the body is not JSON: {context.get('error', 'syntax error')}"
    if kind in ("model_attributes_type", "dict_type", "missing") and item["loc"] in ((), ("body",)):
        return "the body must be a JSON object, sent with Content-Type: application/json"
    message = str(item["msg"])
    if kind in _NAMED:
        return message
    if kind == "string_unicode":
        return NOT_ENCODABLE
    if kind == "value_error":
        return str(context.get("error", message))
    if given is None and kind != "missing":
        return f"{message} (given: null)"
    if isinstance(given, bool):
        return f"{message} (given: {str(given).lower()})"
    if isinstance(given, int | float):
        return f"{message} (given: {given})"
    if isinstance(given, str) and kind != "missing":
        # Its length is a number and may be told; the text itself may be a prompt.
        return f"{message} (given: a string of {len(given)} characters)"
    if isinstance(given, list | tuple) and kind != "missing":
        return f"{message} (given: a list of {len(given)})"
    return message
