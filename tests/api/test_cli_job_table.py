"""The table of `woolly jobs` in terminals of any width."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from woolly_api.cli.job_table import table_of
from woolly_worker.contract.jobs import JobMetrics, JobResult, JobView, Usage
from woolly_worker.contract.states import JobState

IDS = [f"{i:032x}" for i in range(3)]
RESULT = JobResult(
    usage=Usage.of(7, 1234),
    metrics=JobMetrics(decode_tokens_per_second=1234.5, time_to_first_token_seconds=0.25, queue_wait_seconds=0.1),
)


def view(number: int, state: JobState, **more: object) -> JobView:
    fixed = {"id": IDS[number], "model": "woolly-demo", "priority": 5, "tenant": "t", "metadata": {}, "created_at": 0}
    return JobView.model_validate({**fixed, "state": state, "attempts": 1, **more})


VIEWS = [
    view(0, JobState.QUEUED, queue_position=12, estimated_start_seconds=200),
    view(1, JobState.RUNNING, cancel_requested=True, last_seq=5),
    view(2, JobState.SUCCEEDED, result=RESULT),
]


def shown(width: int, views: list[JobView] = VIEWS) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table_of(views, now=1000.0, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [70, 80, 90, 100, 120, 160])
def test_a_line_per_job_with_its_whole_id(width: int) -> None:
    heading, _, *lines = shown(width)
    assert [line.split()[0] for line in lines] == IDS
    assert all(len(line) <= width for line in (heading, *lines))
    assert all(word in heading for word in ("id", "state", "model", "age", "tokens"))
    assert "1234" in lines[2]


def test_room_is_used() -> None:
    wide = "\n".join(shown(160))
    for text in (
        "queued (12 before it, about 3 min)",
        "running (cancelling)",
        "tokens/s",
        "1,234.5",
        "250 ms",
        "attempts",
    ):
        assert text in wide
    narrow = "\n".join(shown(80))
    for text in (" queued ", " cancelling ", " succeeded ", "woolly-demo", "17 min"):
        assert text in narrow
    assert "attempts" not in narrow


def test_what_is_short_leaves_room_for_more() -> None:
    assert "tokens/s" in shown(90, VIEWS[2:])[0]


def test_a_long_name_of_a_model_is_cut() -> None:
    long = [view(0, JobState.QUEUED, model="org/" + "x" * 60)]
    *_, line = shown(80, long)
    assert len(line) <= 80
    assert "org/xxx" in line
    assert "…" in line


@pytest.mark.parametrize("name", ["a[/b]", "[red]x[/]", "模型" * 4])
def test_a_name_is_shown_as_it_is(name: str) -> None:
    *_, line = shown(100, [view(0, JobState.QUEUED, model=name)])
    assert f" {name} " in line


def test_a_name_in_wide_letters_takes_its_room() -> None:
    heading, _, *lines = shown(80, [view(i, JobState.QUEUED, model="模型" * 5) for i in range(2)])
    assert all(cell_len(line) <= 80 for line in (heading, *lines))
    assert "模型" * 5 in lines[0]
