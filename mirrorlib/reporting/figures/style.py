"""How every picture looks: widths at which papers print, fonts that stay legible there, colours
that colour-blind readers tell apart."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.4, 7.0
"""Inches: one column of a paper, and two."""
SMALL, NORMAL = 6.0, 7.0
"""Points, at print size."""
BLUE, GREEN, ORANGE, GREY = "#0072B2", "#009E73", "#D55E00", "#555555"
OKABE_ITO = (BLUE, "#E69F00", GREEN, "#CC79A7", ORANGE, "#56B4E9", "#7F7F7F", "#B8A900")
"""Hues of tasks; the last two stand for Okabe and Ito's black and yellow, of which shades cannot
be told from the paper."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "mirrorlib",
}
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}

styled = rc_context(STYLE)
"""Decorates what makes a figure."""


@styled
def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes the whole picture or nothing, in the format that the name ends in. The same figure
    gives the same bytes. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, kind = path.with_name(f".{path.name}.partial"), path.suffix.removeprefix(".")
    try:
        figure.savefig(beside, format=kind, dpi=dpi, metadata=UNDATED.get(kind))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def shorten(text: str, characters: int) -> str:
    """At most so many characters, cut between words where it can be, with a sign that it was."""
    if len(text) <= characters:
        return text
    return textwrap.shorten(text, characters, placeholder="…") or text[: characters - 1] + "…"


def wrap(text: str, characters: int, lines: int) -> str:
    """At most so many lines of so many characters each."""
    return "\n".join(
        textwrap.wrap(text, characters, max_lines=lines, placeholder="…") or [text[:characters]]
    )
