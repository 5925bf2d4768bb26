"""The table of `woolly jobs`. It fits the terminal: ids stay whole, because they are copied; what there is no room for
is left out, and the name of the model cut at last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from woolly_api.cli.common import age, printable, rate, seconds_or_ms
from woolly_worker.contract.jobs import JobMetrics, JobView
from woolly_worker.contract.states import JobState

if TYPE_CHECKING:
    from rich.table import Table

GAP = 2  # between two columns
SHORTEST_MODEL = 8
COLUMNS = ("id", "state", "model", "age", "tokens", "tokens/s", "first token", "attempts")
# How much is told about a waiting job, and of how many columns; the first form that fits is taken.
FORMS = [(2, 8), (1, 8), (1, 7), (1, 6), (1, 5), (0, 5)]


def table_of(views: Sequence[JobView], *, now: float, width: int) -> "Table":
    """`now` in Unix seconds, `width` in cells of a terminal."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    for detail, n_columns in FORMS:
        rows = [_row(view, now, detail)[:n_columns] for view in views]
        widths = [max(map(cell_len, cells)) for cells in zip(COLUMNS[:n_columns], *rows, strict=True)]
        spare = width - sum(widths) - GAP * (n_columns - 1)
        if spare >= 0:
            break
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for heading, column_width in zip(COLUMNS, widths, strict=False):
        room = max(SHORTEST_MODEL, column_width + min(0, spare)) if heading == "model" else column_width
        table.add_column(heading, no_wrap=True, width=room)
    for row in rows:
        table.add_row(*map(Text, row))  # what looks like rich's markup is part of a name
    return table


def _row(view: JobView, now: float, detail: int) -> tuple[str, ...]:
    metrics = view.result.metrics if view.result else JobMetrics()
    return (
        view.id,
        _state(view, detail),
        printable(view.model),
        age(now - view.created_at),
        str(view.result.usage.completion_tokens if view.result else view.last_seq),
        rate(metrics.decode_tokens_per_second),
        seconds_or_ms(metrics.time_to_first_token_seconds),
        str(view.attempts),
    )


def _state(view: JobView, detail: int) -> str:
    if view.cancel_requested and view.state is JobState.RUNNING:
        return "running (cancelling)" if detail else "cancelling"
    if view.queue_position is None or detail == 0:
        return view.state.value
    start = view.estimated_start_seconds
    told = "" if start is None or detail == 1 else f", about {age(start)}"
    return f"queued ({view.queue_position} before it{told})"
