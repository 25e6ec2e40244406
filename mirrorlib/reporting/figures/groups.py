"""Episodes grouped by what they are told apart by, with a colour for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from mirrorlib.reporting.figures.style import OKABE_ITO

Colour = tuple[float, float, float]

DARKEST, LIGHTEST = -0.6, 0.5
"""How far a shade goes towards black, and towards white."""


@dataclass(frozen=True)
class Groups:
    """K groups, those of a task beside each other. names, tasks: K texts each. of: (E,) int64, the
    group of every episode."""

    names: list[str]
    tasks: list[str]
    of: NDArray[np.int64]

    @classmethod
    def by_instruction(cls, instructions: Sequence[str], tasks: Sequence[str]) -> Groups:
        """instructions, tasks: E texts each. In the order of tasks, then of instructions."""
        pairs = list(zip(tasks, instructions, strict=True))
        found = sorted(set(pairs))
        of = np.array([found.index(pair) for pair in pairs], dtype=np.int64)
        return cls([name for _, name in found], [task for task, _ in found], of)

    @classmethod
    def by_task(cls, tasks: Sequence[str]) -> Groups:
        """tasks: E texts."""
        return cls.by_instruction([task.replace("_", " ") for task in tasks], tasks)

    @property
    def task_starts(self) -> list[int]:
        """The first group of every task but the first task's."""
        return [k for k in range(1, len(self.tasks)) if self.tasks[k] != self.tasks[k - 1]]

    def colours(self) -> list[Colour]:
        """K distinct colours: a hue for each task, shades of it for its groups."""
        tasks = list(dict.fromkeys(self.tasks))
        rounds = -(-len(tasks) // len(OKABE_ITO))
        found: list[Colour] = []
        for place, task in enumerate(tasks):
            turn, hue = divmod(place, len(OKABE_ITO))
            count = self.tasks.count(task)
            low, high = DARKEST, LIGHTEST
            if rounds > 1:  # more tasks than hues: each has a band of the lightness
                low = DARKEST + (LIGHTEST - DARKEST) * turn / rounds
                high = DARKEST + (LIGHTEST - DARKEST) * (turn + 0.8) / rounds
            found += _shades(OKABE_ITO[hue], count, low, high)
        return found


def _shades(colour: str, count: int, low: float, high: float) -> list[Colour]:
    """From dark to light: the colour with black below the middle, with white above it."""
    base = np.array(to_rgb(colour))
    levels = np.linspace(low, high, count) if count > 1 else [(low + high) / 2]
    mixed = [base + t * ((t > 0) - base) * np.sign(t) for t in levels]
    return [(float(r), float(g), float(b)) for r, g, b in mixed]
