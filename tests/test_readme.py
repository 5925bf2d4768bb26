"""Every example in the README, executed as it stands there: against a real cluster, at the cluster's own addresses."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, environment
from typer.testing import CliRunner

from woolly_api.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

# Blocks that are not run here, by how they start. Their commands and options are checked instead.
ONLY_CHECKED = {
    "make demo": "the demo has a test of its own, and the tests run these tests",
    "woolly up": "is what the fixture of this test runs",
    "export WOOLLY_REDIS_URL=redis://10.0.0.1": "needs other machines",
}


def only_checked(block: str) -> bool:
    return block.startswith(tuple(ONLY_CHECKED))


EXECUTED = [(language, block) for language, block in BLOCKS if not only_checked(block)]


def test_there_are_examples_of_every_kind() -> None:
    assert len(EXECUTED) >= 6
    assert len(BLOCKS) - len(EXECUTED) == len(ONLY_CHECKED)


@pytest.mark.parametrize(("language", "block"), EXECUTED, ids=lambda part: part.splitlines()[0][:40])
def test_an_example_runs(language: str, block: str, cluster: Cluster, tmp_path: Path) -> None:
    if "curl" in block and shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    block = block.replace("http://127.0.0.1:8080", cluster.api_url)
    argv = ["sh", "-eu", "-c", block] if language == "sh" else [sys.executable, "-c", block]
    result = subprocess.run(
        argv,
        cwd=tmp_path,
        env=environment(WOOLLY_API_URL=cluster.api_url),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "Traceback" not in result.stderr
    assert '"error":{' not in result.stdout.replace(" ", "")


def test_commands_that_are_not_run_have_the_options_they_show() -> None:
    shown = re.findall(r"^woolly (\w+)([^#\n]*)", "\n".join(block for _, block in BLOCKS), re.MULTILINE)
    assert {"up", "worker", "api", "flower"} <= {command for command, _ in shown}
    for command, words in shown:
        result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == 0, command
        for option in re.findall(r"--[a-z-]+", words):
            assert option in result.output, f"woolly {command} {option}"


@pytest.mark.parametrize("target", ["demo", "test", "test-slow"])
def test_the_targets_exist(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def writer() -> Any:
    """docs/readme.py, which writes the parts that can be made."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_settings_are_those_of_the_settings(writer: Any) -> None:
    assert writer.with_tables(README) == README, "run make readme"


def test_the_sample_is_what_the_demo_model_says(writer: Any) -> None:
    assert writer.with_sample(README) == README, "run make readme"


def test_the_map_names_folders_that_exist() -> None:
    the_map = README[README.index("## The map") :].split("```")[1]
    for name in re.findall(r"([a-z_]+(?:/[a-z_]+)*)/", the_map):
        assert any((root / name).is_dir() for root in (ROOT, ROOT / "woolly_api", ROOT / "woolly_worker")), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
