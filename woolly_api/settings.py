"""ApiSettings: what an operator may set on the API, read from the environment once.

Refuses to hold anything about models or workers: a worker announces what it serves.
"""

from typing import Literal

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


def _shared(name: str) -> str:
    """A setting that all parts of a cluster have to agree on, and so read from one variable."""
    return f"WOOLLY_{name.upper()}"


class ApiSettings(BaseSettings):
    """A field is `WOOLLY_API_<NAME>` in the environment; those that workers share have no `API_` in their names."""

    model_config = SettingsConfigDict(env_prefix="WOOLLY_API_", frozen=True, extra="forbid", populate_by_name=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=_shared("redis_url"),
        description="Redis or Valkey >= 6.2: ledger, token streams and Celery's broker",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    redis_timeout_seconds: PositiveFloat = Field(1.0, description="one Redis call may take this long; then 503")
    heartbeat_seconds: PositiveFloat = Field(10.0, description="an idle stream sends a comment this often")
    first_byte_seconds: float = Field(
        5.0,
        ge=0,
        description="a streamed completion waits this long for its first event, so that an early failure is a real "
        "HTTP error; then the stream opens with a heartbeat",
    )
    follower_grace_seconds: PositiveFloat = Field(
        30.0,
        description="a completion with an Idempotency-Key, whose client left, is cancelled when nobody has come back "
        "for between once and twice this time; likewise any completion whose API died",
    )
    max_wait_seconds: PositiveFloat = Field(60.0, description="upper bound of ?wait= on a job")
    deaf_client_seconds: PositiveFloat = Field(
        60.0, description="a client that takes nothing of what is sent to it for so long is let go; it may resume"
    )
    ledger_patience_seconds: float = Field(
        120.0, ge=0, description="an open stream rides out an absence of Redis of this length"
    )
    max_queued_jobs: PositiveInt = Field(10_000, description="waiting jobs per model; above it, 429 and Retry-After")
    max_queued_tokens: PositiveInt = Field(
        10_000_000, description="tokens that waiting jobs of a model may take, prompts included; above it, the same"
    )
    max_streams: PositiveInt = Field(5000, description="jobs followed at once; each takes a connection to Redis")
    max_body_bytes: ByteSize = Field(ByteSize(10 * 1024 * 1024), description="larger request bodies are a 413")
    shutdown_grace_seconds: PositiveInt = Field(20, description="running completions may finish within this at SIGTERM")
    doorbell_capacity: PositiveInt = Field(
        10_000, description="bells that wait for the broker; beyond, the reaper rings"
    )
    retention_seconds: PositiveFloat = Field(
        3600.0,
        validation_alias=_shared("retention_seconds"),
        description="how long the record of a finished job is kept; for jobs that end without a worker",
    )
    bell_seconds: PositiveFloat = Field(
        5.0,
        validation_alias=_shared("bell_seconds"),
        description="a job that waits for so long may have lost its bell, and is looked at",
    )
    max_crashes: int = Field(
        3,
        ge=1,
        validation_alias=_shared("max_crashes"),
        description="a job that lost so many workers, the last one while it was computed alone, fails as poison",
    )
    reaper: bool = Field(True, description="take part in healing lost leases and lost bells")
    cors_origins: tuple[str, ...] = Field(("*",), description="origins whose browsers may call")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="of the log")
    log_format: Literal["console", "json"] = Field("console", description="of the log, on standard error")
