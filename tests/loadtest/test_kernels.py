"""The benchmark of the kernels runs, and says for each of them what it measured."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "loadtest" / "kernels" / "kernels.py"


def test_one_small_matrix_product() -> None:
    options = ["--only", "matmul", "--types", "Q8_0,F16", "--shapes", "64x64", "--tokens", "1,8"]
    command = [sys.executable, str(SCRIPT), *options, "--rounds", "1", "--threads", "1", "--json"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    rows = json.loads(result.stdout)["rows"]
    assert [(row["kernel"], row["tokens"]) for row in rows] == [
        ("matmul Q8_0", 1),
        ("matmul Q8_0", 8),
        ("matmul F16", 1),
        ("matmul F16", 8),
    ]
    for row in rows:
        assert row["seconds"] > 0
        assert row["numpy_seconds"] > 0
        assert row["loop_seconds"] > 0
        assert row["products_per_second"] * row["seconds"] > 0
