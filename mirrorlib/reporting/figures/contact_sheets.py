"""A filmed rollout on one sheet."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from mirrorlib.reporting.figures.style import BLUE, GREY, ORANGE, SMALL, shorten, styled
from mirrorlib.reporting.figures.tiles import tiles
from mirrorlib.reporting.videos import Film

SHOWN, COLUMNS = 12, 6


@styled
def contact_sheet(film: Film, instruction: str, success: bool, actions: int) -> Figure:
    """Up to twelve evenly spaced frames, first and last among them, each with its time; above them
    the instruction and what came of it.

    film: with T >= 1 frames.
    """
    count = min(SHOWN, len(film.frames))
    chosen = np.linspace(0, len(film.frames) - 1, count).round().astype(int)
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    height, width = film.frames.shape[1:3]
    figure, grid = tiles(
        rows, max(columns, 3), height / width, full=COLUMNS, head=0.28, caption=0.2
    )
    colour = BLUE if success else ORANGE
    places = [axes for row in grid for axes in row]
    for axes, frame in zip(places, chosen, strict=False):
        edge = (colour, 1.8) if frame == chosen[-1] else (GREY, 0.4)
        axes.imshow(film.frames[frame])
        axes.spines[:].set(visible=True, color=edge[0], linewidth=edge[1])
        axes.set_xlabel(f"{frame / film.fps:.1f} s", fontsize=SMALL, labelpad=2)
    for axes in places[count:]:
        axes.set_axis_off()
    outcome = f"{'✓ solved' if success else '✗ not solved'}, {actions} actions"
    grid[0][0].set_title(
        shorten(f"{outcome}: {instruction}", 19 * max(columns, 3)), loc="left", color=colour
    )
    return figure
