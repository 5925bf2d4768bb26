"""Settings of a worker: from the environment, checked at boot, named when they are wrong."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from woolly_worker.settings import WorkerSettings, slug


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOOLLY_MODEL", "/models/Llama 3.2 (Q4_K_M).gguf")
    monkeypatch.setenv("WOOLLY_KV_CACHE_BYTES", "2GiB")
    monkeypatch.setenv("WOOLLY_SLOTS", "3")
    settings = WorkerSettings()  # type: ignore[call-arg]
    assert settings.model == Path("/models/Llama 3.2 (Q4_K_M).gguf")
    assert settings.kv_cache_bytes == 2 * 1024**3
    assert settings.slots == 3
    assert settings.threads >= 1
    assert settings.served_name == "llama-3.2-q4_k_m"


@pytest.mark.parametrize(
    ("field", "value"),
    [("slots", 0), ("lease_seconds", 0), ("kv_dtype", "q5_0"), ("model_name", "a b"), ("prefill_chunk", 7)],
)
def test_a_bad_value_is_refused_at_boot(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        WorkerSettings.model_validate({"model": "x.gguf", "threads": 1, field: value})
    assert field in str(caught.value)


def test_every_setting_is_described() -> None:
    assert [name for name, field in WorkerSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(("text", "name"), [("Llama-3", "llama-3"), ("ö ö", "model"), ("a__b..c ", "a__b..c")])
def test_slugs(text: str, name: str) -> None:
    assert slug(text) == name
