"""The bars of the project: what a comparison has to show, and what it did show.

They are ratios and shares within one run on the same file with the same threads. A bar that was not measured says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from woolly_worker.bench.comparison import Report
from woolly_worker.bench.plan import Decode, Prefill, Work

_STEPS = 1  # the name of a decode does not tell its steps


@dataclass(frozen=True, slots=True)
class Bar:
    """At least `least` for the work's ratio to the peer, or for its share of the limit."""

    work: Work
    what: Literal["ratio", "share_of_limit"]
    least: float

    @property
    def name(self) -> str:
        return f"{self.work.name}: " + ("ratio" if self.what == "ratio" else "share of bandwidth")


BARS = (
    Bar(Prefill(512), "ratio", 2.2),
    Bar(Decode(_STEPS), "ratio", 1.0),
    Bar(Decode(_STEPS), "share_of_limit", 0.90),
    Bar(Decode(_STEPS, batch=8), "ratio", 3.5),
    Bar(Decode(_STEPS, batch=16), "ratio", 3.0),
    Bar(Decode(_STEPS, depth=4096), "ratio", 2.5),
    Bar(Decode(_STEPS, depth=16384), "ratio", 2.5),
)
DEMO_BARS = (Bar(Decode(_STEPS), "ratio", 1.0),)

# Of a worker that serves a 7B model in Q4_K_M.
MOST_START_SECONDS = 2.0
MOST_PRIVATE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """A worker process, measured from outside.

    start_seconds  from its start to its first heartbeat that says "ready", kernels compiled before
    private_bytes  private dirty memory after a sequence of n_ctx tokens
    """

    model: str
    start_seconds: float
    private_bytes: int
    n_ctx: int
    kv_dtype: str


@dataclass(frozen=True, slots=True)
class Verdict:
    model: str
    bar: str
    wanted: str
    measured: str
    reached: bool | None  # None: not measured


def judge(report: Report, bars: Sequence[Bar] = BARS) -> list[Verdict]:
    verdicts = []
    for bar in bars:
        row = report.row(bar.work.name)
        value = None if row is None else getattr(row, bar.what)
        verdicts.append(
            Verdict(
                model=report.model,
                bar=bar.name,
                wanted=f">= {bar.least:.2f}",
                measured="not measured" if value is None else f"{value:.2f}",
                reached=None if value is None else value >= bar.least,
            )
        )
    return verdicts


def judge_worker(figures: WorkerFigures) -> list[Verdict]:
    return [
        Verdict(
            model=figures.model,
            bar="worker: start to ready",
            wanted=f"<= {MOST_START_SECONDS:.1f} s",
            measured=f"{figures.start_seconds:.2f} s",
            reached=figures.start_seconds <= MOST_START_SECONDS,
        ),
        Verdict(
            model=figures.model,
            bar=f"worker: private memory, {figures.n_ctx} tokens in {figures.kv_dtype}",
            wanted=f"< {MOST_PRIVATE_BYTES / 1e9:.1f} GB",
            measured=f"{figures.private_bytes / 1e9:.2f} GB",
            reached=figures.private_bytes < MOST_PRIVATE_BYTES,
        ),
    ]


def bars_table(verdicts: Sequence[Verdict]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("model", "bar"):
        made.add_column(column)
    for column in ("wanted", "measured"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("")
    words = {True: "reached", False: "missed", None: ""}
    for verdict in verdicts:
        made.add_row(verdict.model, verdict.bar, verdict.wanted, verdict.measured, words[verdict.reached])
    return made
