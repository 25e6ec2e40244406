"""Pictures of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mirrorlib.evaluation.recognition import Recognition
from mirrorlib.evaluation.statistics import wilson


def confusion_matrix(recognition: Recognition, path: Path) -> None:
    """Truth by prediction, each row as shares of its clips; lines part the tasks."""
    counts = recognition.confusion()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    size = len(counts)
    side = 3.6 + 0.22 * size
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    for row, column in zip(*np.nonzero(counts), strict=True):
        shade = "black" if shares[row, column] > 0.6 else "white"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=shade, size=7)
    starts = [i for i in range(1, size) if recognition.tasks[i] != recognition.tasks[i - 1]]
    for start in starts:
        axes.axhline(start - 0.5, color="white", linewidth=0.8)
        axes.axvline(start - 0.5, color="white", linewidth=0.8)
    axes.set_xticks(range(size), recognition.instructions, rotation=90, fontsize=7)
    axes.set_yticks(range(size), recognition.instructions, fontsize=7)
    axes.set_xlabel("predicted instruction")
    axes.set_ylabel("instruction of the clip")
    axes.set_title(f"recognition: {recognition.accuracy:.1%} of {len(recognition.truth)} clips")
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    _save(figure, path)


def success_bars(successes: dict[str, tuple[int, int]], path: Path) -> None:
    """Success rate of each task with its Wilson 95 % interval. successes: task -> (k, n)."""
    names = list(successes)
    rates = np.array([k / n for k, n in successes.values()])
    intervals = np.array([wilson(k, n) for k, n in successes.values()])
    errors = np.abs(intervals.T - rates)
    figure = Figure(figsize=(6.4, 0.5 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, rates, xerr=errors, color="#4477aa", ecolor="black", capsize=3)
    axes.set_xlim(0, 1)
    axes.set_xlabel("success rate (Wilson 95 % interval)")
    axes.invert_yaxis()
    for row, (k, n) in enumerate(successes.values()):
        axes.text(1.02, row, f"{k}/{n}", va="center", fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
