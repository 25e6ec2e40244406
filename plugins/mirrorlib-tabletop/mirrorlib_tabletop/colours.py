"""The palette: corners of the RGB cube, softened. No two are near each other at 64 x 64 pixels."""

from __future__ import annotations

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.08, 0.08),
    "green": (0.08, 0.60, 0.14),
    "blue": (0.08, 0.16, 0.85),
    "yellow": (0.96, 0.86, 0.05),
    "magenta": (0.85, 0.12, 0.75),
    "cyan": (0.10, 0.80, 0.85),
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.06),
}
COLOURS = tuple(PALETTE)
