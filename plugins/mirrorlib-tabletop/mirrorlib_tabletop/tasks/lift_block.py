"""Lift the block of a colour, among six."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.colours import COLOURS
from mirrorlib_tabletop.geometry import Array, above, down, keyframe
from mirrorlib_tabletop.scene import BLOCK
from mirrorlib_tabletop.tasks.base import Task, mixed_colours, scatter
from mirrorlib_tabletop.world import World

HALF = 0.022
LIFTED, TOUCHED = 0.15, 0.06
MAX_YAW = np.pi / 6
"""A cube looks the same every 90 degrees: within 30 the grasp's yaw is unambiguous."""


def block_xml(number: int, half: float) -> str:
    """A cube that can be grasped; its geom and body are both called block<number>."""
    return f"""<body name='block{number}' pos='.45 {0.1 * number} {half}'><freejoint/>
<geom name='block{number}' type='box' size='{half} {half} {half}' mass='.06'
  friction='1.5 .05 .001' condim='4' {BLOCK}/></body>"""


class LiftBlock(Task):
    """The first block that leaves the table counts."""

    name = "lift_block"
    goals = 6
    words = tuple((colour,) for colour in COLOURS)
    wordings = (
        "lift the {} block",
        "pick up the {} block",
        "grasp the {} block and raise it",
        "pick up the {} cube and lift it up",
        "raise the block that is {}",
    )

    def bodies(self) -> str:
        return "".join(block_xml(i, HALF) for i in range(self.goals))

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        points = scatter(rng, self.goals, (0.33, -0.32), (0.62, 0.32), 0.12)
        self.yaws = rng.uniform(-MAX_YAW, MAX_YAW, self.goals)
        colours, self.target = mixed_colours(rng, COLOURS[variation], self.goals)
        for i, colour in enumerate(colours):
            world.place(f"block{i}", np.array([*points[i], HALF + 0.001]), self.yaws[i])
            world.paint(f"block{i}", colour)

    def watch(self, world: World) -> None:
        heights = [world.position(f"block{i}")[2] for i in range(self.goals)]
        self.failed |= any(z > TOUCHED for i, z in enumerate(heights) if i != self.target)

    def judge(self, world: World) -> bool:
        return bool(world.position(f"block{self.target}")[2] > LIFTED)

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        block, grasp = world.position(f"block{goal}"), down(self.yaws[goal])
        yield keyframe(above(block, 0.14), grasp, 1.0)
        yield keyframe(block, grasp, 0.0)
        yield keyframe(above(block, 0.22), grasp, 0.0)
