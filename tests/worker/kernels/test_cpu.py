"""CPU levels: how one is chosen, and that all that this machine can execute compute the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import level_probe
import pytest
import shaped_gguf
from gguf import GGMLQuantizationType as Type

from woolly_worker.kernels import cpu, jit
from woolly_worker.kernels.cpu import CPU, LEVELS, Cpu, allowed_cpus, executable_levels, host_level
from woolly_worker.kernels.formats.registry import FORMATS

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parents[1]


def run_python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the project and the tests' helpers."""
    folders = [REPOSITORY, TESTS / "kernels", TESTS / "model"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, folders)), **environment}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, timeout=280)


def assert_level_agrees(level: str, *wanted: str) -> None:
    """The kernels compiled for `level` give the bits that this process's kernels give."""
    if level not in executable_levels():
        pytest.skip(f"this CPU cannot execute {level}")
    ended = run_python(str(TESTS / "kernels" / "level_probe.py"), *wanted, WOOLLY_CPU=level)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["level"] == level
    assert answer["digests"] == {name: level_probe.probe(name) for name in wanted}


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q2_K", "Q3_K", "IQ4_XS", "F16"])
def test_another_level_gives_the_same_bits(name: str) -> None:
    """The level that most machines have (the plainest, where that is this one's), for the formats that most files have,
    and one for every way that AVX2 multiplies: small bytes, signed ones, products in the panel, a table, floats."""
    assert_level_agrees("generic" if CPU.level == "avx2" else "avx2", name)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["halves", *FORMATS])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_gives_the_same_bits(level: str, what: str) -> None:
    """One by one: a level that nobody has compiled for yet takes a quarter of a minute for each format."""
    assert_level_agrees(level, what)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_looks_up_the_same_grids(level: str) -> None:
    assert_level_agrees(level, "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_computes_the_same_logits(level: str, tmp_path: Path) -> None:
    paths = [shaped_gguf.write(tmp_path / f"{kind.name}.gguf", kind) for kind in (Type.Q4_K, Type.Q8_0, Type.F16)]
    assert_level_agrees(level, *map(str, paths))


def test_a_level_that_cannot_be_executed_is_refused_by_name() -> None:
    ended = run_python("-c", "import woolly_worker.kernels.cpu", WOOLLY_CPU="pentium")
    assert ended.returncode != 0
    assert "WOOLLY_CPU=pentium" in ended.stderr
    assert ", ".join(executable_levels()) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_kernels_are_cached_where_one_says(tmp_path: Path) -> None:
    """In a folder whose name tells the level; a second process takes them from there and writes nothing."""
    code = (
        "from woolly_worker.kernels.quantize import quantize_q8\n"
        "quantize_q8(0, 0, 0)\n"
        "print(sum(quantize_q8.real.stats.cache_hits.values()))"
    )
    first = run_python("-c", code, WOOLLY_KERNEL_CACHE=str(tmp_path))
    assert first.stdout.split() == ["0"], first.stderr
    [folder] = tmp_path.iterdir()
    assert folder.name == jit.CACHE_DIR.name
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb*")}
    assert files
    second = run_python("-c", code, WOOLLY_KERNEL_CACHE=str(tmp_path))
    assert second.stdout.split() == ["1"], second.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb*")} == files


def test_levels_of_this_machine() -> None:
    levels = executable_levels()
    assert levels[0] == "generic"
    assert host_level() in levels
    assert CPU.level in levels
    assert set(levels) <= set(LEVELS)


def test_a_tag_names_machine_model_and_level() -> None:
    assert Cpu("avx2", "haswell", "").tag.endswith("-haswell-avx2")


def test_allowed_cpus_are_those_of_this_process() -> None:
    assert 1 <= allowed_cpus() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        ended = run_python(
            "-c",
            "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
            "from woolly_worker.kernels.cpu import allowed_cpus; print(allowed_cpus())",
        )
        assert ended.stdout.strip() == "1", ended.stderr


@pytest.mark.parametrize(
    ("level", "is_amd", "asks"),
    [
        ("generic", False, False),
        ("avx2", True, True),
        ("avxvnni", False, True),
        ("avx512vnni", False, True),
        ("avx512vnni", True, False),
        ("amx", False, True),
        ("i8mm", False, False),
    ],
)
def test_memory_is_asked_for_ahead_where_that_was_measured_to_pay(level: str, is_amd: bool, asks: bool) -> None:
    assert Cpu(level, "", "", is_amd).asks_ahead == asks


@pytest.mark.parametrize(("name", "is_amd"), [("znver4", True), ("sapphirerapids", False)])
def test_the_maker_is_known_by_the_models_name(monkeypatch: pytest.MonkeyPatch, name: str, is_amd: bool) -> None:
    monkeypatch.setattr(cpu.llvm, "get_host_cpu_name", lambda: name)
    monkeypatch.delenv("WOOLLY_CPU", raising=False)
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    assert cpu._decide().is_amd == is_amd
    monkeypatch.setenv("WOOLLY_CPU", "generic")
    assert cpu._decide().is_amd == is_amd
