"""What a task is: a scene with several goals, one of which the instruction names."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from mirrorlib_tabletop.colours import COLOURS
from mirrorlib_tabletop.geometry import Array
from mirrorlib_tabletop.world import World


class Task(abc.ABC):
    """A family of instructions over one compiled scene.

    Every scene offers `goals` goals that look alike but for what words tell apart, and `target`
    is the instructed one. The first choice counts: going for another goal sets `failed`, so that
    trying everything never succeeds.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[tuple[str, ...], ...]]
    """What fills the wordings: one tuple a variation."""
    wordings: ClassVar[tuple[str, ...]]
    """Templates, the canonical one first."""
    goals: ClassVar[int]
    assets: ClassVar[str] = ""

    target: int
    failed: bool

    def descriptions(self, variation: int) -> list[str]:
        """The instruction, then its paraphrases."""
        return [wording.format(*self.words[variation]) for wording in self.wordings]

    @abc.abstractmethod
    def bodies(self) -> str:
        """MJCF of what stands on the table."""

    def reset(self, world: World, variation: int, seed: int) -> None:
        """Lays out a scene, a function of (variation, seed) whatever was there before."""
        self.failed = False
        world.clear()
        self.lay_out(world, variation, np.random.default_rng([seed, variation]))
        world.settle()

    @abc.abstractmethod
    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        """Sets `target` and every position and colour that differs between scenes."""

    @abc.abstractmethod
    def watch(self, world: World) -> None:
        """Called after every control tick: sets `failed` where a wrong goal was gone for."""

    @abc.abstractmethod
    def judge(self, world: World) -> bool:
        """Whether the instruction is fulfilled, asked at the end of every keyframe motion. May
        set `failed` where the robot declares an end that is wrong."""

    @abc.abstractmethod
    def expert(self, world: World, goal: int) -> Iterator[Array]:
        """Keyframe actions (9,) that reach `goal`, each asked for after the one before ended."""


def mixed_colours(
    rng: np.random.Generator, target: str, count: int, palette: tuple[str, ...] = COLOURS
) -> tuple[list[str], int]:
    """`count` distinct colours in random order, and where `target` is among them."""
    others = [colour for colour in palette if colour != target]
    colours = [target, *rng.permutation(others)[: count - 1].tolist()]
    order = rng.permutation(count)
    return [colours[i] for i in order], int(np.flatnonzero(order == 0)[0])


def scatter(
    rng: np.random.Generator,
    count: int,
    low: tuple[float, float],
    high: tuple[float, float],
    apart: float,
    taken: Array | None = None,
    clear: float = 0.0,
) -> Array:
    """(count, 2) points in a rectangle, `apart` from each other and `clear` of (2,) `taken`."""
    while True:
        points: list[Array] = []
        for point in rng.uniform(low, high, (40 * count, 2)):
            if taken is not None and np.linalg.norm(point - taken) < clear:
                continue
            if all(np.linalg.norm(point - other) >= apart for other in points):
                points.append(point)
            if len(points) == count:
                return np.array(points)
