"""Woolly and a peer take turns; a row holds medians, ratios and shares. The peer here speaks the protocol, no more."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from woolly_worker.bench import peer
from woolly_worker.bench.bars import BARS, WorkerFigures, bars_table, judge, judge_worker
from woolly_worker.bench.comparison import Report, Row, compare
from woolly_worker.bench.peer import LlamaCpp, PeerFailed, find_peer_python
from woolly_worker.bench.plan import Decode, Mixed, Prefill, Work
from woolly_worker.bench.report import print_report
from woolly_worker.bench.roofline import NoMatplotlib, draw, pyplot
from woolly_worker.demo import DEMO_MODEL

PLAN: list[Work] = [Prefill(16), Decode(2), Mixed(batch=2, n_prompt=8, chunk=4)]

# A tenth of a second for every step, and a note of what was asked for.
SCRIPT = """
import json, sys
print(json.dumps({"ready": "a stub"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open(__file__.replace("stub.py", "asked"), "a") as log:
        log.write(line)
    print(json.dumps({"steps": [0.1] * request["work"].get("n_steps", 1)}), flush=True)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands where the peer's script is, and writes what it is asked into a file beside it."""
    script = tmp_path / "stub.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(peer, "SCRIPT", script)


@pytest.mark.usefixtures("stub")
def test_they_take_turns_and_the_ratio_is_of_the_medians(tmp_path: Path) -> None:
    # given: a peer that needs a tenth of a second for each step
    seen: list[str] = []
    report = compare(
        DEMO_MODEL,
        PLAN,
        n_threads=1,
        n_rounds=2,
        peer_python=sys.executable,
        progress=lambda what, share: seen.append(what),
    )
    # then: its rates are known, and ours stand beside them
    prefill, decode, mixed = report.rows
    assert prefill.peer_tokens_per_second == pytest.approx(160)
    assert decode.peer_tokens_per_second == pytest.approx(10)
    assert mixed.peer_gap_seconds == pytest.approx(0.1)
    for row in report.rows:
        assert row.peer_tokens_per_second is not None
        assert row.ratio == pytest.approx(row.tokens_per_second / row.peer_tokens_per_second)
    assert (prefill.limit, decode.limit, mixed.limit) == ("int8", "bandwidth", None)
    assert prefill.share_of_limit is not None
    assert 0 < prefill.share_of_limit < 1
    # and: everything was prepared before the rounds, each of which has every work
    names = [work.name for work in PLAN]
    assert seen[-6:] == names * 2
    asked = [json.loads(line)["do"] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == ["prepare"] * 3 + ["run"] * 7  # one to warm up


def test_a_report_without_a_peer_has_no_ratios() -> None:
    report = compare(DEMO_MODEL, PLAN, n_threads=1, n_rounds=1)
    assert report.peer is None
    assert all(row.ratio is None for row in report.rows)
    assert json.loads(json.dumps(report.as_dict()))["rows"][0]["work"] == "prefill 16"


def test_a_peer_that_ends_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "stub.py"
    script.write_text("raise SystemExit('no such model')")
    monkeypatch.setattr(peer, "SCRIPT", script)
    with pytest.raises(PeerFailed, match="ended with 1: no such model"):
        LlamaCpp(sys.executable, DEMO_MODEL, PLAN, n_threads=1)


def test_a_python_that_was_asked_for_must_have_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WOOLLY_BENCH_PEER", raising=False)
    monkeypatch.setattr(peer, "PROBE", "import no_such_module")
    assert find_peer_python(None) is None
    with pytest.raises(PeerFailed, match="llama-cpp-python"):
        find_peer_python(sys.executable)
    monkeypatch.setenv("WOOLLY_BENCH_PEER", "/no/such/python")
    with pytest.raises(PeerFailed, match="/no/such/python"):
        find_peer_python(None)


def report_of(*rows: Row) -> Report:
    return Report("m.gguf", 1000, "Q4_K_M", 1000, "cpu", 2, 1, "llama.cpp (1)", "llama.cpp", 1e9, 1e9, list(rows))


def test_bars_stand_beside_what_was_measured() -> None:
    decode = Row(Decode(32).name, "decode", 10.0, 5.0, ratio=2.0, limit="bandwidth", share_of_limit=0.5)
    verdicts = {(v.bar, v.reached) for v in judge(report_of(decode, Row(Prefill(512).name, "prefill", 1.0)))}
    assert ("decode, 1 sequence: ratio", True) in verdicts
    assert ("decode, 1 sequence: share of bandwidth", False) in verdicts
    assert ("prefill 512: ratio", None) in verdicts  # there was no peer
    assert len(verdicts) == len(BARS)


def test_a_workers_bars() -> None:
    figures = WorkerFigures("7b.gguf", start_seconds=1.5, private_bytes=2_000_000_000, n_ctx=2048, kv_dtype="f16")
    assert [verdict.reached for verdict in judge_worker(figures)] == [True, False]


def test_tables_show_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = Row("mixed", "mixed", 1234.0, 10.0, ratio=123.4, gap_seconds=0.25, peer_gap_seconds=0.5)
    console = Console(width=100)
    print_report(report_of(mixed), console)
    console.print(bars_table(judge(report_of(mixed))))
    text = capsys.readouterr().out
    assert "1,234" in text
    assert "123.40" in text
    assert "longest gap 250 ms, the peer's 500 ms" in text
    assert text.count("not measured") == len(BARS)


def test_a_roofline_has_both_programs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    decode = Row("decode", "decode", 10.0, 5.0, ratio=2.0, limit="bandwidth", per_second=5e8, intensity=1.8)
    prefill = Row("prefill", "prefill", 10.0, 5.0, ratio=2.0, limit="int8", per_second=5e8, intensity=900.0)
    draw(report_of(decode, prefill, Row("mixed", "mixed", 1.0)), tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoMatplotlib, match=r"woolly\[bench\]"):
        pyplot()
