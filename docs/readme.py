"""Writes into README.md what can be made: the tables of settings, and what the demo model says.

    .venv/bin/python docs/readme.py

Tests compare what stands there with what this would write.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from woolly_api.cli.environment import variables_of
from woolly_api.settings import ApiSettings
from woolly_worker.settings import WorkerSettings

README = Path(__file__).parents[1] / "README.md"
TABLES: dict[str, type[BaseSettings]] = {"worker settings": WorkerSettings, "api settings": ApiSettings}
PROMPTS = ("Tell me a story about a fox.", "What is the capital of France?", "What is 7 + 8?")


def table(settings: type[BaseSettings]) -> str:
    """A Markdown table: variable, default, meaning."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    variables = variables_of(settings)
    for name, field in settings.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variables[name]}` | {_default(field)} | {meaning} |")
    return "\n".join(rows)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return ""  # the description says what happens then
    value = field.default
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def sample() -> str:
    """The demo model's greedy answers, unedited. The same bits on every machine, so a test may compare them."""
    lines = []
    for prompt in PROMPTS:
        command = ["generate", "--model", "demo", "--chat", prompt, "--temperature", "0"]
        result = subprocess.run(
            [sys.executable, "-m", "woolly_api.cli", *command], capture_output=True, text=True, check=True
        )
        # The prompt in double quotes, as in the other examples.
        shown = " ".join(f'"{word}"' if " " in word else shlex.quote(word) for word in command)
        lines += [f"$ woolly {shown}", result.stdout.strip()]
    return "\n".join(["```console", *lines, "```"])


def replaced(readme: str, name: str, text: str) -> str:
    """The README with `text` between the two markers of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(readme):
        raise SystemExit(f"README.md has no markers for the {name}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", readme)


def with_tables(readme: str) -> str:
    for name, settings in TABLES.items():
        readme = replaced(readme, name, table(settings))
    return readme


def with_sample(readme: str) -> str:
    return replaced(readme, "demo sample", sample())


if __name__ == "__main__":
    README.write_text(with_sample(with_tables(README.read_text())))
