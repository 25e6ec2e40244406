"""Slide a hexagonal block to the target of a colour, among six around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.colours import COLOURS
from mirrorlib_tabletop.geometry import Array, above, down, keyframe
from mirrorlib_tabletop.scene import BLOCK, PAINT
from mirrorlib_tabletop.tasks.base import Task, mixed_colours
from mirrorlib_tabletop.world import World

RING = 0.16
"""Distance from the block to the targets."""
REACHED = 0.045
WIDTH, HEIGHT = 0.032, 0.055
"""The block: from its centre to a face, and upwards."""


def hexagon_vertices() -> str:
    """Corners of a prism whose faces look along 0, 60, ... degrees."""
    angles = np.deg2rad(30 + 60 * np.arange(6))
    ring = WIDTH / np.cos(np.pi / 6) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = [(x, y, z) for z in (-HEIGHT / 2, HEIGHT / 2) for x, y in ring]
    return " ".join(f"{value:.6f}" for corner in corners for value in corner)


class SlideBlockToColorTarget(Task):
    """The first target that the block enters counts."""

    name = "slide_block_to_color_target"
    goals = 6
    words = tuple((colour,) for colour in COLOURS)
    wordings = (
        "slide the block to {} target",
        "slide the block onto the {} target",
        "push the block to the {} target",
        "move the block onto the {} disc",
        "slide the block until it covers the {} target",
    )
    assets = f"<mesh name='hexagon' vertex='{hexagon_vertices()}'/>"

    def bodies(self) -> str:
        targets = "".join(
            f"""<body name='target{i}' pos='.45 0 0'>
<geom name='target{i}' type='cylinder' size='.048 .001' pos='0 0 .001' {PAINT}/></body>"""
            for i in range(self.goals)
        )
        return f"""{targets}<body name='block' pos='.45 0 {HEIGHT / 2}'><freejoint/>
<geom type='mesh' mesh='hexagon' mass='.1' friction='.6' priority='1' rgba='.55 .56 .60 1'
  {BLOCK}/></body>"""

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        self.centre = rng.uniform((0.46, -0.05), (0.51, 0.05))
        self.angles = rng.uniform(-0.28, 0.28) + np.arange(self.goals) * np.pi / 3
        colours, self.target = mixed_colours(rng, COLOURS[variation], self.goals)
        ring = np.stack([np.cos(self.angles), np.sin(self.angles)], axis=1)
        self.points = self.centre + RING * ring
        for i, colour in enumerate(colours):
            world.place(f"target{i}", self.points[i])
            world.paint(f"target{i}", colour)
        world.place("block", np.array([*self.centre, HEIGHT / 2 + 0.001]), self.angles[0])

    def _entered(self, world: World) -> int | None:
        distances = np.linalg.norm(self.points - world.position("block")[:2], axis=1)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < REACHED else None

    def watch(self, world: World) -> None:
        self.failed |= self._entered(world) not in (None, self.target)

    def judge(self, world: World) -> bool:
        return self._entered(world) == self.target

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        """Pushes the face opposite the target, the closed fingers flat against it."""
        angle = self.angles[goal]
        along = np.array([np.cos(angle), np.sin(angle), 0.0])
        block = np.array([*self.centre, 0.035])
        push = down((angle + np.pi / 2) % np.pi - np.pi / 2)
        yield keyframe(above(block - 0.09 * along, 0.1), push, 0.0)
        yield keyframe(block - 0.09 * along, push, 0.0)
        yield keyframe(block + (RING - WIDTH - 0.013) * along, push, 0.0)
