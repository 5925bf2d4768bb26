"""The compose file and the Dockerfile, as far as that can be seen without Docker: every name in them exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from woolly_api.cli import app
from woolly_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "woolly"}


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, duration
    return float(match[1])


def test_the_services_are_those_of_a_cluster() -> None:
    assert set(SERVICES) == {"redis", "api", "worker", "flower"}
    assert set(OURS) == {"api", "worker", "flower"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_command_is_one_of_ours_with_options_that_it_knows(name: str) -> None:
    command, *options = OURS[name]["command"]
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    for option in options:
        if option.startswith("--"):
            assert option in result.output


def test_what_a_service_depends_on_exists_and_can_tell_its_health() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            assert name in SERVICES
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]


def test_named_volumes_are_declared_and_used() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume).partition(":")[0]
            used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_jobs_survive_a_restart_of_redis() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


def test_nothing_is_published_beyond_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_worker_has_more_time_to_stop_than_it_takes_to_drain() -> None:
    drain_seconds = WorkerSettings.model_fields["drain_seconds"].default
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > drain_seconds + 10


def test_environment_variables_are_known() -> None:
    known = {"WOOLLY_REDIS_URL", "WOOLLY_KERNEL_CACHE"}
    text = (ROOT / "deploy" / "docker-compose.yml").read_text() + (ROOT / "deploy" / "Dockerfile").read_text()
    for service in OURS.values():
        assert set(service["environment"]) <= known
    settings = {f"WOOLLY_{name.upper()}" for name in WorkerSettings.model_fields}
    assert set(re.findall(r"WOOLLY_[A-Z_]+", text)) <= known | settings


def test_the_image_copies_what_the_build_needs() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
    assert re.search(r"^ARG BASE=python:3\.11-slim$", dockerfile, re.MULTILINE)


def test_the_lock_names_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--find-links" not in lock
    pins = re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)
    assert len(pins) > 50
    blocks = re.split(r"^(?=[a-z0-9._-]+==)", lock, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
