"""A report as a table for people."""

from rich.console import Console
from rich.table import Table

from woolly_worker.bench.comparison import Report


def print_report(report: Report, console: Console) -> None:
    console.print(
        f"{report.model}: {report.n_params / 1e6:,.0f} million parameters, {report.file_type}, "
        f"{report.file_bytes / 1e6:,.0f} MB; {report.n_threads} threads, {rounds(report.n_rounds)}"
    )
    console.print(
        f"limits in this run: {report.read_bytes_per_second / 1e9:.1f} GB/s read, "
        f"{report.products_per_second / 1e9:.0f} G int8 multiply-adds/s ({report.cpu})"
    )
    if report.peer:
        console.print(f"beside {report.peer}")
    console.print(table(report))
    for row in report.rows:
        if row.gap_seconds is not None:
            theirs = f", the peer's {1000 * row.peer_gap_seconds:.0f} ms" if row.peer_gap_seconds else ""
            console.print(f"{row.work}: longest gap {1000 * row.gap_seconds:.0f} ms{theirs}")


def table(report: Report) -> Table:
    """A row for each work; the columns of the peer only where there was one."""
    columns = ["Woolly", *([report.peer_name, "ratio"] if report.peer_name else []), "of limit", ""]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("tokens/s", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        peer = [rate(row.peer_tokens_per_second), number(row.ratio)] if report.peer else []
        share = "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"
        made.add_row(row.work, rate(row.tokens_per_second), *peer, share, row.limit or "")
    return made


def rounds(n: int) -> str:
    return "one round" if n == 1 else f"medians of {n} rounds"


def rate(value: float | None) -> str:
    """Tokens per second, in about three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
