"""`deploy/bootstrap.sh` on machines that lack something. What works is what made the environment these tests run in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("sh", "dirname", "mktemp", "mkdir", "cat", "cp", "rm")


def bootstrap(tmp_path: Path, python3: str) -> "subprocess.CompletedProcess[str]":
    """Run it in an empty folder, with nothing on PATH but a few tools and this `python3`."""
    bin_dir, project = tmp_path / "bin", tmp_path / "project"
    bin_dir.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (bin_dir / tool).symlink_to(found)
    (bin_dir / "python3").write_text(python3)
    (bin_dir / "python3").chmod(0o755)
    (project / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "bootstrap.sh", project / "deploy")
    return subprocess.run(
        [str(project / "deploy" / "bootstrap.sh")],
        env={"PATH": str(bin_dir), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    result = bootstrap(tmp_path, "#!/bin/sh\nexit 1\n")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "no Python 3.11 or newer found" in line
    assert "PYTHON=/path/to/python" in line


def test_without_pip_venv_and_uv_the_ways_out_are_told(tmp_path: Path) -> None:
    refusing = f"""#!/bin/sh
        case "$2" in *_base_executable*) echo "$0"; exit 0;; esac
        case "$2" in pip|venv) echo "No module named $2" >&2; exit 1;; esac
        exec {sys.executable} "$@"
    """
    result = bootstrap(tmp_path, refusing)
    assert result.returncode == 1
    assert "No module named pip" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("woolly: cannot get uv: install pip (for example: apt install python3-pip) or uv")


def test_a_python_that_refuses_installs_still_brings_uv(tmp_path: Path) -> None:
    """As on Debian (PEP 668): only `--target` is allowed. The uv it brings then fails for want of a lock."""
    fake_uv = '#!/bin/sh\n[ "$1" = --version ] && echo uv 0 || { echo "called: $*"; [ "$1" = venv ]; }\n'
    refusing = f"""#!/bin/sh
        case "$*" in
            *_base_executable*) echo "$0"; exit 0;;
            "-m pip install --quiet --target .uv uv") mkdir -p .uv/bin; cp {tmp_path}/uv .uv/bin/uv; exit 0;;
            "-m pip install"*) echo "error: externally-managed-environment" >&2; exit 1;;
            "-m pip config"*) echo https://mirror.example/simple; exit 0;;
        esac
        exec {sys.executable} "$@"
    """
    (tmp_path / "uv").write_text(fake_uv)
    (tmp_path / "uv").chmod(0o755)
    result = bootstrap(tmp_path, refusing)
    assert "called: venv --quiet --clear --python" in result.stdout
    assert "called: pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock" in result.stdout
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("woolly: the environment could not be installed")


@pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")
def test_the_environment_is_made_again_only_when_the_lock_changes(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "bootstrap.sh"
    script.write_text("#!/bin/sh\nmkdir -p .venv; echo made\n")
    script.chmod(0o755)

    def make() -> str:
        return subprocess.run(["make", "env"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "made" in make()
    assert "made" not in make()
    later = (tmp_path / ".venv" / ".woolly-ready").stat().st_mtime + 5
    os.utime(tmp_path / "requirements.lock", (later, later))
    assert "made" in make()
