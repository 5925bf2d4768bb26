"""What is asked for ahead is asked for between the loads: LLVM would gather the prefetches of four blocks in a row."""

import re
from itertools import pairwise

import pytest
from test_cpu import run_python

from woolly_worker.kernels.cpu import executable_levels

ROW_DOT = """
import numba
from woolly_worker.kernels.formats import q4_k
row_dot = numba.njit("float32(intp, intp, intp)", error_model="numpy")(q4_k.IN_FOURS.row_dot.py_func)
print(row_dot.inspect_asm(row_dot.signatures[0]))
"""


@pytest.mark.parametrize("level", ["avx2", "avxvnni", "amx"])
def test_lines_are_asked_for_one_by_one(level: str) -> None:
    if level not in executable_levels():
        pytest.skip(f"this machine cannot execute {level}")
    ended = run_python("-c", ROW_DOT, WOOLLY_CPU=level)
    assert ended.returncode == 0, ended.stderr
    instructions = [line.split()[0] for line in ended.stdout.splitlines() if re.match(r"\t[a-z]", line)]
    asks = [i for i, name in enumerate(instructions) if name.startswith("prefetch")]
    assert len(asks) >= 12
    assert min(b - a for a, b in pairwise(asks)) > 2
