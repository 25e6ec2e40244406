"""Matrices whose rows and columns are sorted by task, then instruction."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mirrorlib.alignment import cosine_scores
from mirrorlib.evaluation.recognition import Recognition
from mirrorlib.evaluation.representations import Represented
from mirrorlib.reporting.figures.groups import Groups
from mirrorlib.reporting.figures.style import (
    DOUBLE,
    GREY,
    NORMAL,
    SMALL,
    percent,
    shorten,
    styled,
    wrap,
)

CELL = 0.24
"""Inches that one block of a small matrix takes."""
SMALLEST = 2.0
"""Inches of a matrix's side, for its axis' name to fit beside it."""
BAR = 0.75
"""Inches for the colour bar."""
CHARACTERS = 16
"""Of the normal size that an inch holds."""
LONGEST = 34
"""Characters of a label."""


@styled
def confusion_matrix(recognition: Recognition) -> Figure:
    """Truth by prediction, counts on the share of the row's clips; lines part the tasks."""
    counts = recognition.confusion()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    groups = Groups(recognition.instructions, recognition.tasks, recognition.truth)
    figure, axes, row = _square(groups, np.ones(len(counts), dtype=np.int64))
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    if row >= SMALL * 1.4:
        for i, j in zip(*np.nonzero(counts), strict=True):
            shade = "black" if shares[i, j] > 0.55 else "white"
            axes.text(j, i, counts[i, j], ha="center", va="center", color=shade, size=SMALL)
    axes.set_xlabel("recognised as")
    axes.set_ylabel("instruction of the clip")
    hits = int((recognition.predicted == recognition.truth).sum())
    _say(
        figure,
        f"recognition of {len(recognition.truth)} held-out clips: {hits} right "
        f"({percent(recognition.accuracy)}; chance {percent(recognition.chance)})",
    )
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.7, aspect=30)
    return figure


@styled
def similarity_matrix(represented: Represented) -> Figure:
    """Cosine of every zu (a row) with every ze (a column); lines part instructions, heavier ones
    tasks. Below it, the mean cosine by what the two episodes share.

    represented: with zu and ze.
    """
    assert represented.zu is not None and represented.ze is not None
    groups = Groups.by_instruction(represented.instructions, represented.tasks)
    order = np.argsort(groups.of, kind="stable")
    scores = cosine_scores(represented.zu.double(), represented.ze.double()).numpy()
    figure, axes, _ = _square(groups, np.bincount(groups.of))
    shown, limit = scores[order][:, order], float(np.abs(scores).max())
    image = axes.imshow(shown, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
    axes.set_xlabel("scene of the executor (ze)")
    axes.set_ylabel("clip of the observer (zu)")
    _say(figure, _mean_cosines(scores, groups))
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.7, aspect=30)
    return figure


def _say(figure: Figure, text: str) -> None:
    """Above the matrix, in as many lines as the figure's width needs."""
    characters = int(figure.get_figwidth() * CHARACTERS)
    figure.suptitle(wrap(text, characters, 3), fontsize=NORMAL)


def _mean_cosines(scores: NDArray[np.float64], groups: Groups) -> str:
    """Of pairs that share the episode; the instruction only; the task only; nothing."""
    tasks = np.array(groups.tasks)[groups.of]
    episode = np.eye(len(scores), dtype=bool)
    instruction = groups.of[:, None] == groups.of
    task = tasks[:, None] == tasks
    parts = {
        "same episode": episode,
        "same instruction": instruction & ~episode,
        "same task": task & ~instruction,
        "other": ~task,
    }
    means = [f"{name} {scores[mask].mean():+.2f}" for name, mask in parts.items() if mask.any()]
    return "mean cosine: " + ", ".join(means)


def _square(groups: Groups, sizes: NDArray[np.int64]) -> tuple[Figure, Axes, float]:
    """Figure, axes with a block of `sizes[k]` rows for group k, and the points a row takes. Groups
    are named, or only their tasks where a block is too low for a line of text."""
    names = [shorten(name, LONGEST) for name in groups.names]
    margin = 0.35 + 0.052 * max(len(name) for name in names)
    side = min(DOUBLE - BAR - margin, max(CELL * len(sizes), SMALLEST))
    figure = Figure(figsize=(side + BAR + margin, side + margin + 0.2), layout="constrained")
    axes = figure.subplots()
    ends = np.cumsum(sizes)
    row = side * 72 / ends[-1]
    starts = groups.task_starts
    fine = int(sizes.min()) * row >= SMALL * 1.15
    if not fine:
        names = [shorten(groups.tasks[k].replace("_", " "), LONGEST) for k in [0, *starts]]
        sizes = np.diff([0, *(ends[k - 1] for k in starts), ends[-1]])
    elif sizes.max() > 1:
        _lines(axes, ends[:-1], 0.25)
    _lines(axes, np.array([ends[k - 1] for k in starts]), 0.9)
    centres = np.cumsum(sizes) - sizes / 2 - 0.5
    axes.set_xticks(centres, names, rotation=90)
    axes.set_yticks(centres, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes, row


def _lines(axes: Axes, ends: NDArray[np.int64], width: float) -> None:
    for end in ends:
        axes.axhline(end - 0.5, color=GREY if width < 0.5 else "white", linewidth=width)
        axes.axvline(end - 0.5, color=GREY if width < 0.5 else "white", linewidth=width)
