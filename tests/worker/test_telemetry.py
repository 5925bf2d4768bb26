"""What a worker says: one line per job, in either form, and never a local variable."""

import json
import logging

import pytest

from woolly_worker.contract.jobs import ErrorInfo, JobMetrics, JobResult, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.telemetry import configure_logging, log, log_bug, log_job

SECRET = "the prompt"


pytestmark = pytest.mark.usefixtures("restored_logging")


def test_a_job_ends_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    metrics = JobMetrics(time_to_first_token_seconds=0.123456, decode_tokens_per_second=31.41592, attempts=2)
    result = JobResult(text=SECRET, finish_reason="stop", usage=Usage(prompt_tokens=3), metrics=metrics)
    log_job("j", JobState.SUCCEEDED, result)
    (line,) = capfd.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields["event"] == "job"
    assert (fields["job_id"], fields["state"], fields["finish_reason"]) == ("j", "succeeded", "stop")
    assert (fields["time_to_first_token_seconds"], fields["decode_tokens_per_second"]) == (0.1235, 31.4159)
    assert (fields["attempts"], fields["prompt_tokens"]) == (2, 3)
    assert SECRET not in line


def test_a_failed_job_tells_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log_job("j", JobState.FAILED, JobResult(error=ErrorInfo(code="pool_exhausted", message="m")))
    assert json.loads(capfd.readouterr().err)["error"] == "pool_exhausted"


@pytest.mark.parametrize("form", ["console", "json"])
def test_an_exception_shows_where_but_not_what(capfd: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging("info", form)

    def breaks(prompt: str) -> None:
        raise KeyError(prompt)

    try:
        breaks(SECRET)
    except KeyError as error:
        log_bug("it broke", error, job_id="j")
    try:
        breaks("something else")
    except KeyError:
        log.exception("by the book", job_id="j")
    said = capfd.readouterr().err
    assert "KeyError" in said
    assert "test_telemetry.py" in said
    assert SECRET not in said


def test_the_standard_library_speaks_the_same_language(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    logging.getLogger("celery").warning("hello %s", "there")
    logging.getLogger("celery").info("not this")
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "hello there"
