"""What lies nearest to a query in the shared space, with frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mirrorlib.alignment import cosine_scores
from mirrorlib.evaluation.alignment import recalls
from mirrorlib.evaluation.representations import Represented
from mirrorlib.reporting.figures.frames import Frames, Image
from mirrorlib.reporting.figures.groups import Groups
from mirrorlib.reporting.figures.style import (
    BLUE,
    GREEN,
    GREY,
    NORMAL,
    ORANGE,
    SMALL,
    percent,
    styled,
    wrap,
)
from mirrorlib.reporting.figures.tiles import tiles

Way = Literal["see_to_do", "do_to_see"]

QUERIES, NEAREST = 5, 5
SIGNS = {"scene": ("★", BLUE), "instruction": ("✓", GREEN), "wrong": ("✗", ORANGE)}
HEADINGS: dict[Way, tuple[str, str]] = {
    "see_to_do": ("query clip", "nearest scenes of the executor (first view), by cosine"),
    "do_to_see": ("query scene", "nearest clips (middle frame), by cosine"),
}
MEANINGS = {
    "scene": "the query's own episode",
    "instruction": "the right instruction, another episode",
    "wrong": "another instruction",
}


def neighbours(represented: Represented, way: Way) -> NDArray[np.int64]:
    """The candidates of every query, by falling cosine. represented: E episodes with zu and ze.

    Returns (E, E): row i holds episodes of the executor's side for clip i (`see_to_do`), or clips
    for the executor's episode i. Candidates that tie are in the order of episodes.
    """
    assert represented.zu is not None and represented.ze is not None
    scores = cosine_scores(represented.zu.double(), represented.ze.double()).numpy()
    return np.argsort(-(scores if way == "see_to_do" else scores.T), axis=1, kind="stable")


def queries(represented: Represented) -> list[int]:
    """At most five episodes: the first of each of as many instructions, evenly spaced among all.
    The choice knows nothing of the result."""
    of = Groups.by_instruction(represented.instructions, represented.tasks).of
    groups = int(of.max()) + 1
    chosen = np.linspace(0, groups - 1, min(QUERIES, groups)).round().astype(int)
    return [int(np.flatnonzero(of == k)[0]) for k in chosen]


@styled
def retrieval_grid(represented: Represented, frames: Frames, way: Way) -> Figure:
    """A query a row, then its five nearest of the other side; border and sign say what each is.

    A clip is seen by its middle frame, an episode of the executor by its first view. Raises
    UserError where an episode's file is not there.
    """
    assert represented.zu is not None and represented.ze is not None
    rows, near = queries(represented), neighbours(represented, way)[:, :NEAREST]
    seen: tuple[Callable[[str], Image], Callable[[str], Image]] = (frames.clip, frames.scene)
    show_query, show_found = seen if way == "see_to_do" else seen[::-1]
    images = [show_query(represented.names[query]) for query in rows]
    height, width = images[0].shape[:2]
    figure, grid = tiles(
        len(rows),
        1 + near.shape[1],
        height / width,
        full=1 + NEAREST,
        head=0.2,
        caption=0.3,
        foot=0.4,
        apart=0.12,
    )
    for axes, query, image in zip(grid, rows, images, strict=True):
        _show(axes[0], image, represented.instructions[query])
        for place, found in zip(axes[1:], near[query], strict=True):
            sign, colour = SIGNS[_kind(represented, query, int(found))]
            text = f"{sign} {represented.instructions[found]}"
            _show(place, show_found(represented.names[found]), text, colour)
    of_query, of_found = HEADINGS[way]
    grid[0][0].set_title(of_query, loc="left", pad=4)
    grid[0][1].set_title(of_found, loc="left", pad=4)
    _legend(figure, _recall_line(represented, way))
    return figure


def _kind(represented: Represented, query: int, found: int) -> str:
    if query == found:
        return "scene"
    pairs = [(represented.tasks[i], represented.instructions[i]) for i in (query, found)]
    return "instruction" if pairs[0] == pairs[1] else "wrong"


def _recall_line(represented: Represented, way: Way) -> str:
    """Of all queries, so that nobody takes the few that are shown for the result."""
    assert represented.zu is not None and represented.ze is not None
    found = recalls(represented.zu, represented.ze, represented.labels)
    short = "u2e" if way == "see_to_do" else "e2u"
    right, chance = found[f"recall_at_1_{short}"], found["recall_at_1_chance"]
    own, own_chance = found[f"recall_at_1_{short}_episode"], found["recall_at_1_chance_episode"]
    return (
        f"nearest of all {len(represented.names)} queries: right instruction {percent(right)} "
        f"(chance {percent(chance)}), own episode {percent(own)} (chance {percent(own_chance)})"
    )


def _show(axes: Axes, image: Image, text: str, colour: str = GREY) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.spines[:].set(visible=True, color=colour, linewidth=1.8)
    axes.set_xlabel(wrap(text, 22, 2), fontsize=SMALL, color=colour, labelpad=2)


def _legend(figure: Figure, title: str) -> None:
    signs = [SIGNS[kind] for kind in MEANINGS]
    figure.legend(
        handles=[
            Line2D([], [], marker=f"${sign}$", linestyle="", color=colour) for sign, colour in signs
        ],
        labels=list(MEANINGS.values()),
        title=title,
        title_fontsize=NORMAL,
        loc="lower center",
        ncols=len(MEANINGS),
        frameon=False,
        handletextpad=0.2,
    )
