"""A peer that is a program: what it is asked, and what of its table counts. The program here prints such a table."""

import json
import sys
from pathlib import Path

import pytest

from woolly_worker.bench.batched_bench import BatchedBench
from woolly_worker.bench.comparison import compare
from woolly_worker.bench.peer import PeerFailed
from woolly_worker.bench.plan import Decode, Mixed, Prefill
from woolly_worker.demo import DEMO_MODEL

PROGRAM = """#!{python}
import json, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with Path({asked!r}).open("a") as file:
    print(json.dumps(options), file=file)
print("|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |", file=sys.stderr)
counts = options["-npp"], options["-ntg"], options["-npl"]
print("|   %s |     %s |    %s |     99 |    2.500 |    10.00 |    0.750 |    20.00 |" % counts, file=sys.stderr)
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """What the program was asked, an object for each call."""
    return tmp_path / "asked"


@pytest.fixture
def program(tmp_path: Path, asked: Path) -> Path:
    path = tmp_path / "llama-batched-bench"
    path.write_text(PROGRAM.format(python=sys.executable, asked=str(asked)))
    path.chmod(0o755)
    return path


def test_works_are_halves_of_what_the_program_measures(program: Path, asked: Path) -> None:
    peer = BatchedBench(program, DEMO_MODEL, n_threads=2)
    assert peer.run(Prefill(512)) == [2.5]
    assert peer.run(Decode(3, batch=8)) == [0.25] * 3
    assert peer.run(Decode(5, depth=4096)) == [0.15] * 5
    counts = [
        [options[name] for name in ("-t", "-c", "-npp", "-ntg", "-npl")]
        for options in map(json.loads, asked.read_text().splitlines())
    ]
    assert counts == [
        ["2", "513", "512", "1", "1"],
        ["2", "32", "1", "3", "8"],
        ["2", "4101", "4096", "5", "1"],
    ]


def test_it_takes_turns_and_is_left_out_where_it_has_no_answer(program: Path) -> None:
    works = [Prefill(8), Mixed(batch=2, n_prompt=8, chunk=4)]
    report = compare(DEMO_MODEL, works, n_threads=1, n_rounds=1, peer_program=program)
    prefill, mixed = report.rows
    assert report.peer_name == "llama-batched-bench"
    assert prefill.peer_tokens_per_second == pytest.approx(8 / 2.5)
    assert mixed.peer_tokens_per_second is None
    assert mixed.ratio is None
    assert mixed.peer_gap_seconds is None


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such model')\n")
    path.chmod(0o755)
    with pytest.raises(PeerFailed, match="ended with 1: no such model"):
        BatchedBench(path, DEMO_MODEL, n_threads=1).run(Prefill(8))


def test_a_file_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    with pytest.raises(PeerFailed, match="does not run"):
        BatchedBench(path, DEMO_MODEL, n_threads=1).run(Prefill(8))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PeerFailed, match="is no program"):
            BatchedBench(path, DEMO_MODEL, n_threads=1)
