"""Labels beside points, none of which covers another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from mirrorlib.reporting.figures.style import SMALL

GAP = 0.6
"""Points left free around a label."""
STEP, FURTHEST = 1.5, 60.0
"""Points: how far apart the circles are on which a place is looked for, and the widest of them."""
LEADER = 5.0
"""Points from its anchor at which a label gets a line to it."""


def fix_layout(figure: Figure) -> None:
    """Lays the figure out for good, so that places measured now hold when it is saved."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(
    axes: Axes, anchors: NDArray[np.float64], texts: Sequence[str], away: Sequence[float]
) -> list[Annotation]:
    """Writes each text `away` from its anchor, moved only so far that no label covers another.

    anchors: (K, 2) in the coordinates of the data. away: K distances in points. axes: of a figure
    whose layout is fixed. Where no place is free within 60 points, the label stays at its anchor.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    points_a_pixel = 72 / figure.dpi
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    taken: list[Bbox] = []
    labels = []
    for row, text, least in zip(anchors, texts, away, strict=True):
        anchor = float(row[0]), float(row[1])
        label = axes.annotate(
            text,
            anchor,
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=SMALL,
            fontweight="bold",
            zorder=4,
            path_effects=[withStroke(linewidth=1.4, foreground="white")],
        )
        box = label.get_window_extent(renderer).padded(GAP / points_a_pixel)
        for x, y in _offsets(least):
            moved = box.translated(x / points_a_pixel, y / points_a_pixel)
            if not any(moved.overlaps(other) for other in taken) and _within(moved, frame):
                break
        else:
            (x, y), moved = (0.0, 0.0), box
        label.set_position((x, y))
        if math.hypot(x, y) > LEADER:
            _lead(axes, anchor, (x, y))
        taken.append(moved)
        labels.append(label)
    return labels


def _lead(axes: Axes, anchor: tuple[float, float], offset: tuple[float, float]) -> None:
    axes.annotate(
        "",
        anchor,
        offset,
        textcoords="offset points",
        zorder=3,
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 2, "shrinkB": 0},
    )


def _offsets(least: float) -> Iterator[tuple[float, float]]:
    """Points around the anchor, at least so far from it, the nearest first."""
    if not least:
        yield 0.0, 0.0
    for ring in range(max(1, math.ceil(least / STEP)), int(FURTHEST / STEP) + 1):
        radius, places = ring * STEP, 8 + 4 * ring
        for place in range(places):
            angle = 2 * math.pi * place / places
            yield radius * math.cos(angle), radius * math.sin(angle)


def _within(box: Bbox, frame: Bbox) -> bool:
    return bool(
        box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    )
