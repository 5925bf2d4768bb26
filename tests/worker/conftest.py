"""Fixtures for the worker's tests. Its presence also puts this folder on the path, for `import tiny_gguf`."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import tiny_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid two-layer llama with an SPM vocabulary, 60 KB."""
    return tiny_gguf.write(tmp_path_factory.mktemp("tiny") / "tiny-spm.gguf")


@pytest.fixture(scope="session")
def tiny_bpe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a byte-level BPE vocabulary."""
    return tiny_gguf.write(tmp_path_factory.mktemp("tiny") / "tiny-bpe.gguf", vocab="bpe")


@pytest.fixture(autouse=True)
def counted_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the first claim of a job gets the fence 1 and the next one 2, so that scripts know them."""
    monkeypatch.setattr("woolly_worker.ledger.ledger.fence_step", lambda: 1)


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that configure the loggers of the process. Others may have configured them before, for theirs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured, configuration, configure = structlog.is_configured(), structlog.get_config(), structlog.configure

    def configure_for_now(**options: Any) -> None:
        """A logger that keeps what it finds at its first use would keep it for good."""
        configure(**options | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure_for_now)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    if configured:
        configure(**configuration)
