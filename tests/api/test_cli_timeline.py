"""`woolly timeline`: a table for people, JSON for machines."""

import io
import json

import pytest
from harness import RunningApi
from rich.console import Console
from scripted_worker import MODEL, ScriptedWorker

from woolly_api.cli import main
from woolly_api.cli.timeline import table_of
from woolly_api.client import WoollyClient
from woolly_worker.contract.jobs import JobRequest
from woolly_worker.contract.timeline import PartKind, StallCause, Timeline, TimelinePart


def shown(timeline: Timeline) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(table_of(timeline))
    return out.getvalue()


def test_a_row_per_part_with_its_bar_where_it_lies() -> None:
    parts = (
        TimelinePart(kind=PartKind.QUEUED, seconds=5, attempt=0, start_seconds=0),
        TimelinePart(
            kind=PartKind.DECODE, seconds=4, attempt=1, start_seconds=5, n_tokens=80, n_steps=80, batch_size_mean=2.5
        ),
        TimelinePart(kind=PartKind.STALL, cause=StallCause.REDIS, seconds=0.99, attempt=1, start_seconds=9, n_merged=3),
    )
    lines = shown(Timeline(seconds=10, unattributed_seconds=0.01, parts=parts, attempts=())).splitlines()
    queued, decode, stall, rest = (
        next(line for line in lines if word in line) for word in ("queued", "decode", "stall: redis", "unattributed")
    )
    assert "50.0" in queued
    assert queued.rindex("█") < decode.index("█") <= decode.rindex("█") < stall.index("█")
    assert "80 tokens, batch of 2.5" in decode
    assert "3 such parts" in stall
    assert "10.0 ms" in rest


def test_a_rest_below_a_millisecond_is_not_told_and_none_is_negative() -> None:
    parts = (TimelinePart(kind=PartKind.QUEUED, seconds=5, attempt=0, start_seconds=0),)

    def rows(rest: float) -> list[str]:
        lines = shown(Timeline(seconds=5, unattributed_seconds=rest, parts=parts, attempts=())).splitlines()
        return [line for line in lines if " ms " in line]

    for rest in (0.0009, 0, -0.0006):
        (row,) = rows(rest)
        assert "queued" in row
    _, row = rows(-0.02)
    assert row.split() == ["20.0", "ms", "clocks", "disagree"]


def test_the_command(
    api: RunningApi, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.serve()
    with WoollyClient(api.url) as client:
        job_id = client.submit(JobRequest(model=MODEL, prompt="x")).id
        assert client.wait(job_id).timeline is None
        told = client.get(job_id, timeline=True).timeline
    assert told is not None

    def woolly(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["woolly", "timeline", *args, "--api", api.url])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    text = woolly(job_id)
    assert text.startswith("succeeded, ")
    assert "queued" in text
    assert "running" in text
    assert "attempt 1: claimed after" in text
    assert "scripted" in text
    assert Timeline.model_validate(json.loads(woolly(job_id, "--json"))) == told
