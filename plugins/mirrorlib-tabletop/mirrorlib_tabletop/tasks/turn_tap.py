"""Turn the left or the right tap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.geometry import Array, above, down, keyframe
from mirrorlib_tabletop.scene import FIXTURE
from mirrorlib_tabletop.tasks.base import Task
from mirrorlib_tabletop.world import World

TURNED, TOUCHED = 0.6, 0.2
SIDES = (0.1, -0.1)
HANDLE_HEIGHT = 0.118
STEEL = "rgba='.72 .74 .77 1'"


class TurnTap(Task):
    """Left and right as the robot sees them: left is +y."""

    name = "turn_tap"
    goals = 2
    words = (("left",), ("right",))
    wordings = (
        "turn {} tap",
        "turn the {} tap",
        "rotate the {} tap",
        "grasp the {} tap and turn it",
        "twist the tap on the {} side",
    )

    def bodies(self) -> str:
        handles = "".join(
            f"""<geom type='cylinder' size='.018 .05' pos='0 {y} .05' {STEEL} {FIXTURE}/>
<body pos='0 {y} .115'>
  <joint name='tap{i}' type='hinge' axis='0 0 1' range='-2 2' damping='.05' frictionloss='.03'/>
  <geom type='box' size='.055 .009 .014' rgba='.15 .33 .42 1' mass='.05' friction='1.5' {FIXTURE}/>
</body>"""
            for i, y in enumerate(SIDES)
        )
        return f"""<body name='tap' pos='.5 0 0'>{handles}
<geom type='cylinder' size='.03 .05' pos='0 0 .05' {STEEL} {FIXTURE}/>
<geom type='capsule' fromto='0 -.1 .03 0 .1 .03' size='.014' {STEEL} {FIXTURE}/>
<geom type='capsule' fromto='0 0 .1 -.09 0 .12' size='.014' {STEEL} {FIXTURE}/></body>"""

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        self.target = variation
        self.centre = rng.uniform((0.42, -0.15), (0.58, 0.15))
        self.yaw = rng.uniform(-0.4, 0.4)
        world.place("tap", self.centre, self.yaw)

    def watch(self, world: World) -> None:
        self.failed |= abs(world.joint(f"tap{1 - self.target}")) > TOUCHED

    def judge(self, world: World) -> bool:
        return abs(world.joint(f"tap{self.target}")) > TURNED

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        across = SIDES[goal] * np.array([-np.sin(self.yaw), np.cos(self.yaw)])
        handle = np.array([*self.centre + across, HANDLE_HEIGHT])
        turned = self.yaw + np.sign(SIDES[goal])
        yield keyframe(above(handle, 0.1), down(self.yaw), 1.0)
        yield keyframe(handle, down(self.yaw), 0.0)
        yield keyframe(handle, down(turned), 0.0)
