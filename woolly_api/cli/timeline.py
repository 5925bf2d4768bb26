"""`woolly timeline`: where a job's time went, as a table with bars."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from woolly_api.cli.common import JOBS_PANEL, connected, printable
from woolly_api.cli.options import DEFAULT_API_URL, ApiUrl, AsJson
from woolly_worker.contract.timeline import AttemptEnd, PartKind, Timeline, TimelineAttempt, TimelinePart

if TYPE_CHECKING:
    from rich.table import Table

BAR_COLUMNS = 32
WIDTH = 120  # of the table where there is no terminal
SHOWN_REST_SECONDS = 0.001  # Redis tells its times in whole milliseconds

_COLORS = {
    PartKind.ADMISSION: "yellow",
    PartKind.PREFILL: "cyan",
    PartKind.DECODE: "green",
    PartKind.RUNNING: "green",
    PartKind.STALL: "red",
    PartKind.LOST: "red",
}
_ENDINGS = {AttemptEnd.LOST: "lost", AttemptEnd.RELEASED: "given back", AttemptEnd.ENDED: "ended"}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=JOBS_PANEL)(timeline)


def timeline(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="As `woolly submit` printed it.", show_default=False)],
    as_json: AsJson = False,
    api: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Show where a job's time went: waits, prefill chunks, decode, stalls by cause, attempts.

    [dim]woolly timeline f4757544a109456fb4d18353bf1844ce[/dim]
    """
    with connected(api) as client:
        view = client.get(job_id, timeline=True)
    told = view.timeline
    assert told is not None, "it was asked for"
    if as_json:
        print(json.dumps(told.model_dump(mode="json"), indent=2))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
    console.print(f"{view.state.value}, {_milliseconds(told.seconds)} since submit")
    console.print(table_of(told))
    for attempt in told.attempts:
        console.print(_attempt(attempt))


def table_of(told: Timeline) -> "Table":
    """A row per part, its bar where it lies within the whole."""
    from rich import box
    from rich.bar import Bar
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("from", "takes", "%"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("", width=BAR_COLUMNS)
    table.add_column("details", no_wrap=True)
    whole = told.seconds or 1.0
    for part in told.parts:
        end = part.start_seconds + part.seconds
        color = _COLORS.get(part.kind, "default")
        table.add_row(
            _milliseconds(part.start_seconds),
            _milliseconds(part.seconds),
            f"{100 * part.seconds / whole:.1f}",
            part.kind.value if part.cause is None else f"{part.kind.value}: {part.cause.value}",
            Bar(whole, max(0.0, part.start_seconds), min(whole, end), width=BAR_COLUMNS, color=color),
            _details(part),
        )
    rest = told.unattributed_seconds
    if abs(rest) >= SHOWN_REST_SECONDS:
        what = "unattributed" if rest > 0 else "clocks disagree"  # of worker and Redis: some time is in two parts
        table.add_row("", _milliseconds(abs(rest)), "", what, "", "", style="dim")
    return table


def _details(part: TimelinePart) -> str:
    said = [
        f"{part.n_tokens} tokens" if part.n_tokens else "",
        f"batch of {part.batch_size_mean:.3g}" if part.batch_size_mean and part.batch_size_mean > 1 else "",
        f"{part.n_merged} such parts" if part.n_merged > 1 else "",
    ]
    return ", ".join(text for text in said if text)


def _attempt(attempt: TimelineAttempt) -> str:
    claimed = f"claimed after {_milliseconds(attempt.claimed_seconds)}"
    ending = "running"
    if attempt.end is not None and attempt.ended_seconds is not None:
        ending = f"{_ENDINGS[attempt.end]} after {_milliseconds(attempt.ended_seconds)}"
    return f"attempt {attempt.attempt}: {claimed}, {ending}; {printable(attempt.worker_id)}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if abs(seconds) < 10 else f"{seconds:,.2f} s"
