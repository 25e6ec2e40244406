"""Stack two or three blocks of a colour on the pad, among three colours of three blocks each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.geometry import DOWN, Array, above, down, keyframe
from mirrorlib_tabletop.scene import GROUND
from mirrorlib_tabletop.tasks.base import Task, mixed_colours, scatter
from mirrorlib_tabletop.tasks.lift_block import MAX_YAW, block_xml
from mirrorlib_tabletop.world import World

HALF = 0.02
EACH, SHOWN = 3, 3
HEIGHTS = (2, 3)
PALETTE = ("red", "green", "blue", "yellow")
PAD_TOP = 0.006
ON_PAD = 0.04
DONE_HEIGHT = 0.30
REST = 0.42
ORDER_GAP = 0.025


class StackBlocks(Task):
    """Raising the open gripper says that the stack is finished: then its height must be right.

    Blocks 3c to 3c + 2 have the scene's colour c; goal 2c + k is a stack of HEIGHTS[k] of them.
    """

    name = "stack_blocks"
    goals = SHOWN * len(HEIGHTS)
    words = tuple((str(height), colour) for height in HEIGHTS for colour in PALETTE)
    wordings = (
        "stack {} {} blocks",
        "build a tower of {} {} blocks",
        "pile up {} {} blocks on the pad",
        "put {} {} cubes on top of each other",
        "place {} of the {} blocks in a stack",
    )

    def bodies(self) -> str:
        pad = f"""<body name='pad' pos='.45 0 0'><geom type='box' size='.05 .05 .003' pos='0 0 .003'
rgba='.66 .67 .70 1' {GROUND}/></body>"""
        return pad + "".join(block_xml(i, HALF) for i in range(EACH * SHOWN))

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        number, colour = divmod(variation, len(PALETTE))
        colours, index = mixed_colours(rng, PALETTE[colour], SHOWN, PALETTE)
        self.target = index * len(HEIGHTS) + number
        self.pad = rng.uniform((0.40, -0.22), (0.55, 0.22))
        points = self._points(rng)
        self.yaws = rng.uniform(-MAX_YAW, MAX_YAW, len(points))
        world.place("pad", self.pad)
        for i, point in enumerate(points):
            world.place(f"block{i}", np.array([*point, HALF + 0.001]), self.yaws[i])
            world.paint(f"block{i}", colours[i // EACH])

    def _points(self, rng: np.random.Generator) -> Array:
        """Where the blocks stand: within a colour, distances from the pad differ clearly."""
        while True:
            points = scatter(
                rng, EACH * SHOWN, (0.30, -0.34), (0.64, 0.34), 0.10, self.pad, clear=0.14
            )
            distances = np.linalg.norm(points - self.pad, axis=1).reshape(SHOWN, EACH)
            if (np.diff(np.sort(distances)) > ORDER_GAP).all():
                return points

    def _blocks(self, world: World, goal: int) -> list[Array]:
        first = goal // len(HEIGHTS) * EACH
        return [world.position(f"block{i}") for i in range(first, first + EACH)]

    def _on_pad(self, block: Array) -> bool:
        return bool(np.linalg.norm(block[:2] - self.pad) < ON_PAD)

    def _stack(self, world: World) -> list[float]:
        """Heights of the instructed colour's blocks over the pad, from below."""
        return sorted(b[2] for b in self._blocks(world, self.target) if self._on_pad(b))

    def watch(self, world: World) -> None:
        colour = self.target // len(HEIGHTS)
        for goal in range(0, self.goals, len(HEIGHTS)):
            if goal // len(HEIGHTS) != colour:
                self.failed |= any(map(self._on_pad, self._blocks(world, goal)))

    def judge(self, world: World) -> bool:
        stack = self._stack(world)
        raised = world.pose[2] > DONE_HEIGHT and world.opening > 0.9
        if not raised or not stack:
            return False
        height = HEIGHTS[self.target % len(HEIGHTS)]
        wanted = PAD_TOP + HALF * (2 * np.arange(height) + 1)
        right = len(stack) == height and bool(np.abs(np.array(stack) - wanted).max() < 0.012)
        self.failed |= not right
        return right

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        """Takes the nearest block to the pad first."""
        first = goal // len(HEIGHTS) * EACH
        distances = [np.linalg.norm(b[:2] - self.pad) for b in self._blocks(world, goal)]
        height = HEIGHTS[goal % len(HEIGHTS)]
        for level, choice in enumerate(np.argsort(distances)[:height]):
            block = world.position(f"block{first + choice}")
            grasp = down(self.yaws[first + choice])
            place = np.array([*self.pad, PAD_TOP + HALF * (2 * level + 1) + 0.003])
            rise = REST - place[2] if level == height - 1 else 0.1
            yield keyframe(above(block, 0.12), grasp, 1.0)
            yield keyframe(block, grasp, 0.0)
            yield keyframe(above(block, 0.22), grasp, 0.0)
            yield keyframe(above(place, 0.1), DOWN, 0.0)
            yield keyframe(place, DOWN, 1.0)
            yield keyframe(above(place, rise), DOWN, 1.0)
