"""Settings in the environment that nobody reads: a misspelt one would be ignored in silence."""

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

from woolly_api.cli.common import say

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

# Read elsewhere than in WorkerSettings and ApiSettings.
OTHERS = {"WOOLLY_API_URL", "WOOLLY_BENCH_PEER", "WOOLLY_CPU", "WOOLLY_KERNEL_CACHE"}


def variables_of(settings: type["BaseSettings"]) -> dict[str, str]:
    """Which variable each field is read from."""
    prefix = settings.model_config.get("env_prefix", "")
    fields = settings.model_fields.items()
    return {
        name: field.validation_alias if isinstance(field.validation_alias, str) else f"{prefix}{name.upper()}"
        for name, field in fields
    }


def known_settings() -> set[str]:
    """The names of all variables that mean something."""
    from woolly_api.settings import ApiSettings
    from woolly_worker.settings import WorkerSettings

    return OTHERS | {*variables_of(WorkerSettings).values(), *variables_of(ApiSettings).values()}


def forget_unknown_settings() -> None:
    """Say which variables called WOOLLY_... are none, and take them out, so that no program started from here says it
    again."""
    known = known_settings()
    for name in sorted(os.environ):
        if name.startswith("WOOLLY_") and name not in known:
            likely = get_close_matches(name, known, n=1, cutoff=0.8)
            say(f"{name} is set, but is no setting" + (f": {likely[0]} is one" if likely else ""))
            del os.environ[name]
