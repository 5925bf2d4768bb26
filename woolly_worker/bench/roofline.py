"""A report as a roofline: how much is multiplied for each byte that has to be read, and how fast that goes here.

Under the slope memory is the limit, under the flat roof arithmetic. A prefill lies to the right, a decode of one
sequence far to the left; batches walk from one to the other. Needs matplotlib, Woolly's extra `bench`.

Source: Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
"""

from pathlib import Path
from typing import Any

import numpy as np

from woolly_worker.bench.comparison import Report, Row


class NoMatplotlib(Exception):
    """The message names the extra that brings it."""


def pyplot() -> Any:
    """Raises NoMatplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise NoMatplotlib("a plot needs matplotlib: pip install 'woolly[bench]'") from error
    matplotlib.use("Agg")  # a file, no window
    from matplotlib import pyplot as plt

    return plt


def draw(report: Report, path: Path) -> None:
    """Write the picture; the file's ending says its format. Raises NoMatplotlib."""
    plt = pyplot()
    rows = [row for row in report.rows if row.intensity]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    intensities = [row.intensity for row in rows if row.intensity]
    ridge = report.products_per_second / report.read_bytes_per_second
    x = np.geomspace(min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2, 100)
    roof = np.minimum(x * report.read_bytes_per_second, report.products_per_second)
    axes.loglog(x, roof / 1e9, color="black", label="limits of this machine, in this run")
    axes.scatter(intensities, [products_per_second(row) / 1e9 for row in rows], label="Woolly", zorder=3)
    theirs = [row for row in rows if row.ratio]
    if theirs:
        heights = [products_per_second(row) / row.ratio / 1e9 for row in theirs if row.ratio]
        axes.scatter([row.intensity for row in theirs], heights, marker="x", label=report.peer, zorder=3)
    for row in rows:
        place = (row.intensity, products_per_second(row) / 1e9)
        axes.annotate(row.work, place, xytext=(6, -3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("multiply-adds with weights for each byte read")
    axes.set_ylabel("G multiply-adds per second")
    axes.set_title(f"{report.model}, {report.n_threads} threads, {report.cpu}")
    axes.legend(loc="lower right")
    axes.grid(visible=True, which="both", alpha=0.2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def products_per_second(row: Row) -> float:
    """What is measured of a prefill; of a decode, the bytes that it reads in a second times its intensity."""
    assert row.per_second is not None
    assert row.intensity is not None
    return row.per_second if row.limit == "int8" else row.per_second * row.intensity
