"""What a traceback in the API's log shows, and what it must not."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from woolly_api.settings import ApiSettings
from woolly_api.telemetry import configure_logging, log

configure_logging(ApiSettings(log_format=sys.argv[1]))

def handle(prompt):
    raise ValueError("broken")

try:
    handle("a secret sheep")
except ValueError:
    log.exception("unhandled")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variables(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    assert "ValueError: broken" in done.stderr
    assert "secret" not in done.stderr.replace('handle("a secret sheep")', "")  # the script's own source line
