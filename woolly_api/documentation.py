"""The texts of /docs, and an OpenAPI page that says what this API does rather than what FastAPI would.

Nothing here runs for a request other than / and /openapi.json.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

DESCRIPTION = """
An asynchronous job queue for LLM inference on CPUs.

* **Jobs** are the native surface: hand one in, and it will be run. Read its tokens as they come, now or later, from
  any replica.
* **`Idempotency-Key`**: who sends one may ask again after a lost connection, and gets the same job.
* **OpenAI** clients work as they are: set `base_url` to this server's `/v1`.

Nothing is ignored: a parameter that is unknown or not supported is a 400 that names it. While Redis is away, answers
are 503 with `Retry-After`.
"""

TAGS = [
    {"name": "Jobs", "description": "Submit, look, stream, cancel."},
    {"name": "OpenAI", "description": "Completions, chat completions and models, for the official clients."},
    {"name": "Performance", "description": "Measured values, and the addresses of the earlier program."},
    {"name": "Health", "description": "For orchestrators and Prometheus."},
]


class ErrorFields(BaseModel):
    message: str = Field(examples=["sampling.top_p: Input should be less than or equal to 1 (given: 1.5)"])
    type: str = Field(description="a coarse family", examples=["invalid_request_error"])
    code: str = Field(description="stable, for machines", examples=["invalid_request"])
    param: str | None = Field(description="the field that is wrong", examples=["sampling.top_p"])
    status: int = Field(description="the HTTP status, also inside streams")
    details: dict[str, Any]
    request_id: str = Field(description="that of the X-Request-Id header")
    timestamp: int = Field(description="Unix seconds")
    suggestion: str | None = Field(None, description="what may help")


class ErrorAnswer(BaseModel):
    """Every error of this API, and the data of an error event in a stream."""

    error: ErrorFields


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "A parameter is unknown, unsupported or out of range."},
    404: {"model": ErrorAnswer, "description": "No such job or model; `details` lists the models there are."},
    503: {"model": ErrorAnswer, "description": "Redis is away; try again after `Retry-After` seconds."},
}


def document(app: FastAPI) -> None:
    """Take FastAPI's own 422 out of the page: a wrong request is answered with 400 here; where there is a 422, it is
    one of ours. / leads to the page."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            for operations in schema["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                schema.get("components", {}).get("schemas", {}).pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")
