"""Kernels for 64-bit ARM, which no machine here has: they compile, to the instructions that are meant for them."""

import re
from pathlib import Path

import pytest
from test_cpu import TESTS, run_python

DOTS = {"i8mm": "usdot", "dotprod": "sdot"}


def assembly(level: str, kernel: str, cache: Path) -> str:
    probe = str(TESTS / "kernels" / "arm_probe.py")
    ended = run_python(probe, level, kernel, WOOLLY_KERNEL_CACHE=str(cache))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("level", sorted(DOTS))
def test_a_row_is_multiplied_by_dot_instructions(level: str, tmp_path: Path) -> None:
    """Four blocks of 256 weights are 64 dots of sixteen bytes; without i8mm each needs a second one."""
    text = assembly(level, "row_dot", tmp_path)
    found = re.findall(r"\b[us]{1,2}dot\b", text)
    assert set(found) == {DOTS[level]}
    assert len(found) == (64 if level == "i8mm" else 128)
    assert re.search(r"\bfmadd\b", text), "a fused step between blocks"


@pytest.mark.slow
@pytest.mark.parametrize("level", sorted(DOTS))
def test_panels_are_multiplied_by_dot_instructions(level: str, tmp_path: Path) -> None:
    assert DOTS[level] in assembly(level, "matmul", tmp_path)


@pytest.mark.slow
def test_attention_is_fused_and_converts_halves_in_hardware(tmp_path: Path) -> None:
    text = assembly("i8mm", "attention", tmp_path)
    assert re.search(r"\bfmla\b", text)
    assert re.search(r"\bfcvtl\b", text)
    assert "__extendhfsf2" not in text
