"""Images side by side, laid out in inches."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mirrorlib.reporting.figures.style import DOUBLE

GAP, EDGE = 0.07, 0.03


def tiles(
    rows: int,
    columns: int,
    aspect: float,
    *,
    full: int,
    head: float,
    caption: float,
    foot: float = 0.0,
    apart: float = 0.0,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns images, row by row. It is as wide as two columns of a paper where
    `full` images are beside each other, and as much narrower as there are fewer.

    aspect: height of an image over its width. head, caption, foot, apart: inches above all, below
    each image, below all, and between the first image of a row and the others.
    """
    width = (DOUBLE - 2 * EDGE - apart - (full - 1) * GAP) / full
    height = width * aspect
    across = 2 * EDGE + columns * width + (columns - 1) * GAP + apart
    down = head + rows * (height + caption) + foot
    figure = Figure(figsize=(across, down))
    grid = []
    for row in range(rows):
        bottom = down - head - row * (height + caption) - height
        lefts = [EDGE + k * (width + GAP) + (apart if k else 0.0) for k in range(columns)]
        boxes = [(x / across, bottom / down, width / across, height / down) for x in lefts]
        grid.append([figure.add_axes(box, xticks=[], yticks=[]) for box in boxes])
    return figure, grid
