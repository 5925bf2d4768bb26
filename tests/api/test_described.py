"""The API against its own description: requests that Schemathesis makes of /openapi.json, at a running server.

Whatever is asked: no answer is a 5xx but the documented 503, and every answer has the shape that the page promises. A
few examples of each operation by default; `make fuzz` asks for more (WOOLLY_FUZZ_EXAMPLES).
"""

import os

import hypothesis
import pytest
import requests
import schemathesis
from harness import RunningApi
from hypothesis import HealthCheck, Phase
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from scripted_worker import ScriptedWorker

EXAMPLES = int(os.environ.get("WOOLLY_FUZZ_EXAMPLES", "40"))
DOCUMENTED_5XX = {503}
# A stream of events stays open until its job ends, and this benchmark waits for a worker: tests of their own have them.
LEFT_OUT = ("/v1/jobs/{job_id}/events", "/api/v1/performance/benchmark")
OF_EVERY_ANSWER = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def schema(api: RunningApi, worker: ScriptedWorker) -> schemathesis.schemas.BaseSchema:
    worker.serve()
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


def test_every_operation_answers_as_described(schema: schemathesis.schemas.BaseSchema, api: RunningApi) -> None:
    asked = 0
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path in LEFT_OUT:
                continue

            @hypothesis.settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy())
            def check(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                response = case.call(session=session, timeout=30)
                assert response.status_code < 500 or response.status_code in DOCUMENTED_5XX, response.status_code
                case.validate_response(response, checks=OF_EVERY_ANSWER)

            check()
    assert asked >= 10 * EXAMPLES // 2
    assert api.metric("woolly_api_requests_total", status="500") == 0
