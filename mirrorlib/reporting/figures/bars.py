"""Success rates as bars."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mirrorlib.evaluation.statistics import wilson
from mirrorlib.reporting.figures.style import BLUE, GREY, SINGLE, SMALL, shorten, styled


@styled
def success_bars(successes: Mapping[str, tuple[int, int]]) -> Figure:
    """Success rate of each task, and of all together, with its Wilson 95 % interval.

    successes: task -> (k, n), n at least 1.
    """
    counts = {shorten(task.replace("_", " "), 24): pair for task, pair in successes.items()}
    if len(counts) > 1:
        hits, trials = np.array(list(successes.values())).sum(0)
        counts["all tasks"] = int(hits), int(trials)
    rates = np.array([k / n for k, n in counts.values()])
    intervals = np.array([wilson(k, n) for k, n in counts.values()])
    figure = Figure(figsize=(SINGLE, 0.21 * len(counts) + 0.5), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(counts))
    axes.barh(
        rows,
        rates,
        xerr=np.abs(intervals.T - rates),
        color=[GREY if name == "all tasks" else BLUE for name in counts],
        error_kw={"ecolor": "black", "elinewidth": 0.8, "capsize": 2, "capthick": 0.8},
        height=0.62,
        alpha=0.75,
    )
    axes.set_yticks(rows, list(counts))
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 6), [str(x) for x in range(0, 101, 20)])
    axes.set_xlabel("success rate in %, with its Wilson 95 % interval")
    for row, (k, n) in enumerate(counts.values()):
        axes.text(1.03, row, f"{k}/{n}", va="center", fontsize=SMALL)
    return figure
