"""Writes the tables of settings into README.md, from the descriptions in the settings classes themselves.

    .venv/bin/python docs/settings_table.py

A test compares what stands there with what this would write.
"""

import re
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from woolly_api.settings import ApiSettings
from woolly_worker.settings import WorkerSettings

README = Path(__file__).parents[1] / "README.md"
TABLES: dict[str, type[BaseSettings]] = {"worker settings": WorkerSettings, "api settings": ApiSettings}


def table(settings: type[BaseSettings]) -> str:
    """A Markdown table: variable, default, meaning."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        variable = "WOOLLY_REDIS_URL" if name == "redis_url" else f"{prefix}{name.upper()}"
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variable}` | {_default(field)} | {meaning} |")
    return "\n".join(rows)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return ""  # the description says what happens then
    value = field.default
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def with_tables(readme: str) -> str:
    """The README with each table between its two markers."""
    for name, settings in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(readme):
            raise SystemExit(f"README.md has no markers for the {name}")
        replacement = f"{begin}\n{table(settings)}\n{end}"
        readme = pattern.sub(lambda _: replacement, readme)  # noqa: B023 (used at once)
    return readme


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
