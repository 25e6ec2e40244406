"""Figures of a comparison, at the width of a paper's page and in colours that everyone can tell
apart (Okabe and Ito 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mirrorlib.comparison.arms import Comparison
from mirrorlib.comparison.outcomes import CURVES, Outcome, outcomes
from mirrorlib.comparison.statistics import MINIMUM_SEEDS, Summary, t_interval

COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
APART, QUIET = "#0072B2", "#555555"
"""An interval that excludes zero, and every other."""
WIDTH, DPI = 7.2, 200
LABEL = 8
PANELS = 6
NAME = 26


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes what there is to draw as PNG files: arms, differences, curves."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "arms": arms_figure(comparison),
        "differences": differences_figure(comparison),
        "curves": curves_figure(comparison),
    }
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DPI)
    return paths


def arms_figure(comparison: Comparison) -> Figure | None:
    """A point for each seed and, from MINIMUM_SEEDS on, the mean with its interval; dotted:
    chance."""
    shown = [o for o in outcomes() if o.share and o.metric in comparison.summaries][:PANELS]
    if not shown:
        return None
    figure, panels = _panels(len(shown), 3, 0.55 + 0.2 * len(comparison.arms), sharey=True)
    for axes, outcome in zip(panels, shown, strict=True):
        by_arm = comparison.summaries[outcome.metric]
        for row, arm in enumerate(comparison.arms):
            if arm in by_arm:
                _row(axes, row, by_arm[arm], outcome, QUIET)
        for chance in comparison.summaries.get(outcome.chance or "", {}).values():
            axes.axvline(100 * chance.mean, color=QUIET, linewidth=0.8, linestyle=":")
        _dress(axes, comparison.arms, outcome)
    figure.supxlabel("%", fontsize=LABEL)
    return figure


def differences_figure(comparison: Comparison) -> Figure | None:
    """A point for each pair of seeds and, from MINIMUM_SEEDS pairs on, the mean with its interval,
    in colour only where that excludes zero."""
    shown = [o for o in outcomes() if o.share and comparison.differences.get(o.metric)][:PANELS]
    arms = comparison.arms[1:]
    if not shown:
        return None
    figure, panels = _panels(len(shown), 3, 0.55 + 0.2 * len(arms), sharey=True)
    for axes, outcome in zip(panels, shown, strict=True):
        by_arm = comparison.differences[outcome.metric]
        axes.axvline(0, color="black", linewidth=0.8)
        for row, arm in enumerate(arms):
            if arm in by_arm:
                found = by_arm[arm]
                _row(axes, row, found, outcome, APART if found.excludes_zero else QUIET)
        _dress(axes, arms, outcome)
    figure.supxlabel(f"points over {_name(comparison.baseline)}", fontsize=LABEL)
    return figure


def curves_figure(comparison: Comparison) -> Figure | None:
    """Training curves: mean and 95 % t-band over seeds, or one thin line a seed below
    MINIMUM_SEEDS."""
    present = {name for record in comparison.records for name in record.curves}
    shown = [(name, title) for name, title in CURVES if name in present]
    if not shown:
        return None
    figure, panels = _panels(len(shown), 2, 1.9)
    lines: dict[str, Any] = {}
    for axes, (name, title) in zip(panels, shown, strict=True):
        for number, arm in enumerate(comparison.arms):
            runs = [r.curves[name] for r in comparison.records if r.arm == arm and name in r.curves]
            style: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
            }
            if runs:
                lines[arm] = _curve(axes, runs, style)
        axes.set_title(title, fontsize=LABEL + 1)
        axes.set_xlabel("step", fontsize=LABEL)
        axes.tick_params(labelsize=LABEL)
        axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(
        list(lines.values()), [_name(arm) for arm in lines], loc="outside lower center",
        ncols=min(4, len(lines)), fontsize=LABEL,
    )  # fmt: skip
    return figure


def band(runs: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Runs on common steps. runs: (steps, values) of each. Returns the steps of the first (T,) as
    far as every run reaches, and the values there, between logged steps linear, (N, T)."""
    start, end = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
    grid = np.array([step for step in runs[0][0] if start <= step <= end], dtype=np.float64)
    return grid, np.array([np.interp(grid, steps, values) for steps, values in runs])


def _curve(axes: Axes, runs: Sequence[tuple[list[int], list[float]]], style: dict[str, Any]) -> Any:
    if len(runs) < MINIMUM_SEEDS:
        thin = [axes.plot(*run, linewidth=0.7, alpha=0.8, **style)[0] for run in runs]
        return thin[-1]
    steps, values = band(runs)
    mean, low, high = t_interval(values.T)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return axes.plot(steps, mean, linewidth=1.3, **style)[0]


def _panels(count: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * (height + 0.45) + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in grid[count:]:
        unused.remove()
    return figure, list(grid[:count])


def _row(axes: Axes, row: int, found: Summary, outcome: Outcome, colour: str) -> None:
    points = outcome.factor * np.array(list(found.values.values()))
    if found.low is None or found.high is None:
        axes.plot(points, np.full(len(points), row), "o", color=QUIET, markersize=3.5, alpha=0.7)
        return
    jitter = row + 0.28 + 0.12 * np.linspace(-1, 1, len(points))
    axes.plot(points, jitter, ".", color=QUIET, markersize=2.5, alpha=0.6)
    mean, low, high = (outcome.factor * value for value in (found.mean, found.low, found.high))
    axes.plot([low, high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([mean], [row], "D", color=colour, markersize=4)


def _dress(axes: Axes, arms: Sequence[str], outcome: Outcome) -> None:
    """A panel is at least two points wide: no spread must not look like one."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, (low + high) / 2 - 1), max(high, (low + high) / 2 + 1))
    axes.set_yticks(range(len(arms)), [_name(arm) for arm in arms], fontsize=LABEL)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.tick_params(labelsize=LABEL)
    axes.set_title(outcome.title.replace(", ", ",\n", 1), fontsize=LABEL)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)


def _name(arm: str) -> str:
    """Short enough for a label, and no formula."""
    short = arm if len(arm) <= NAME else f"{arm[: NAME - 1]}…"
    return short.replace("$", r"\$")
