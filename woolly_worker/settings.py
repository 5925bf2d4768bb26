"""WorkerSettings: what an operator may set on a worker, read from the environment once, in the entry point.

The table of settings in the README is made from the descriptions here. Everything else gets plain values passed down.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Redis is away before leases stand still (AWAY_MS in ledger/scripts/shared.lua). Less is allowed, and told.
SHORTEST_LEASE_SECONDS = 3.0
MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"


def allowed_cpus() -> int:
    """Imported late: it brings LLVM, which reading settings does not need when the number is given."""
    from woolly_worker.kernels.cpu import allowed_cpus as allowed

    return allowed()


def slug(text: str) -> str:
    """`text` as a model name: usable in URLs, queue names and shells."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower() or "model"


class WorkerSettings(BaseSettings):
    """Every field is `WOOLLY_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="WOOLLY_", frozen=True, extra="forbid", protected_namespaces=())

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey >= 6.2: ledger, token streams and Celery's broker"
    )
    model: Path = Field(description="the GGUF file to serve")
    model_name: Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=200)] | None = Field(
        None, description="what clients call the model; default: the name of the file, in small letters"
    )
    n_ctx: PositiveInt | None = Field(
        None,
        description="tokens per sequence, prompt and completion; default: what the model was trained for, at most 4096",
    )
    slots: PositiveInt = Field(8, description="sequences that run together, and jobs taken at a time")
    threads: PositiveInt = Field(
        default_factory=allowed_cpus, description="threads of a step; default: the CPUs allowed"
    )
    prefill_chunk: PositiveInt = Field(256, description="tokens per step, so that a long prompt does not stall others")
    kv_cache_bytes: ByteSize | None = Field(
        None, description="memory for keys and values; default: every slot's n_ctx, at most half of the free memory"
    )
    kv_dtype: Literal["f16", "f32", "q8_0", "q4_0"] = Field(
        "f16", description="how keys and values are stored: f16, f32, q8_0 or q4_0"
    )
    mlock: bool = Field(
        False, description="lock the weights in memory, so that the system never takes them away for something else"
    )
    huge_pages: bool = Field(
        False,
        description="ask for pages of 2 MB, for weights, keys, values and activations; a model file that lies in "
        "memory in small pages is read again",
    )
    prefix_cache: bool = Field(True, description="keep the KV blocks of past prompts and reuse equal beginnings")
    baseline: bool = Field(
        False,
        description="compute with the naive loops that the kernels are measured against: one thread, for comparisons",
    )
    lease_seconds: PositiveFloat = Field(
        7.0,
        description="a worker that is silent for so long has lost its jobs. 3 at least: Redis may be away for so long "
        "before leases stand still",
    )
    drain_seconds: NonNegativeFloat = Field(20.0, description="running jobs may finish within this at SIGTERM")
    retention_seconds: PositiveFloat = Field(3600.0, description="how long the record of a finished job is kept")
    bell_seconds: PositiveFloat = Field(
        5.0, description="a job queued for so long may have lost its bell; the reaper looks"
    )
    max_crashes: PositiveInt = Field(
        3, description="a job that lost so many workers, the last one while it was computed alone, fails as poison"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="of the worker's log")
    log_format: Literal["console", "json"] = Field("console", description="of the worker's log, on standard error")

    @model_validator(mode="after")
    def sizes_fit(self) -> Self:
        if self.prefill_chunk < self.slots:
            raise ValueError(
                f"prefill_chunk is {self.prefill_chunk}, but {self.slots} slots take a token each per step"
            )
        return self

    @property
    def served_name(self) -> str:
        return self.model_name or slug(self.model.stem)
