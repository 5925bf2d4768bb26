"""ApiSettings: from the environment, and refused when wrong."""

import pytest
from pydantic import ValidationError

from woolly_api.settings import ApiSettings


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOOLLY_REDIS_URL", "redis://elsewhere:1/2")
    monkeypatch.setenv("WOOLLY_MAX_CRASHES", "7")
    monkeypatch.setenv("WOOLLY_API_PORT", "9001")
    monkeypatch.setenv("WOOLLY_API_MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("WOOLLY_API_CORS_ORIGINS", '["https://ole.example"]')
    settings = ApiSettings()
    assert settings.redis_url == "redis://elsewhere:1/2"
    assert settings.max_crashes == 7
    assert settings.port == 9001
    assert settings.max_body_bytes == 2 * 1024 * 1024
    assert settings.cors_origins == ("https://ole.example",)


@pytest.mark.parametrize("prefix", ["", "API_"])
def test_shared_settings_have_one_name(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """REDIS_URL and its like belong to other programs."""
    monkeypatch.setenv(f"{prefix}REDIS_URL", "redis://elsewhere:1/2")
    for name in ("RETENTION_SECONDS", "BELL_SECONDS", "MAX_CRASHES"):
        monkeypatch.setenv(f"{prefix}{name}", "99")
    settings = ApiSettings()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.retention_seconds, settings.bell_seconds, settings.max_crashes) == (3600, 5, 3)


def test_given_values_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOOLLY_REDIS_URL", "redis://elsewhere:1/2")
    assert ApiSettings(redis_url="redis://here:1/0").redis_url == "redis://here:1/0"


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "70000"), ("HEARTBEAT_SECONDS", "0"), ("LOG_LEVEL", "loud"), ("MAX_STREAMS", "none")]
)
def test_a_wrong_value_stops_the_boot(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"WOOLLY_API_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        ApiSettings()


def test_every_field_says_what_it_is_for() -> None:
    assert [name for name, field in ApiSettings.model_fields.items() if not field.description] == []
