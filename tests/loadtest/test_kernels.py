"""The benchmark of the kernels runs, and says for each of them what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "loadtest" / "kernels" / "kernels.py"


def test_one_small_matrix_product() -> None:
    options = ["--only", "matmul", "--types", "Q8_0,F16", "--shapes", "64x64", "--tokens", "1,8"]
    command = [sys.executable, str(SCRIPT), *options, "--rounds", "1", "--threads", "1", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # these packages, whatever else is installed
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240, env=environment)
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
        assert row["products_per_second"] == 64 * 64 * row["tokens"] / row["seconds"]
