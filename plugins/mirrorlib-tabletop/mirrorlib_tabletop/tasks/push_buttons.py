"""Push the button of a colour, among six."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.colours import COLOURS
from mirrorlib_tabletop.geometry import DOWN, Array, keyframe
from mirrorlib_tabletop.scene import FIXTURE
from mirrorlib_tabletop.tasks.base import Task, mixed_colours, scatter
from mirrorlib_tabletop.world import World

PRESSED = -0.008


class PushButtons(Task):
    """The first button that goes down counts."""

    name = "push_buttons"
    goals = 6
    words = tuple((colour,) for colour in COLOURS)
    wordings = (
        "push the {} button",
        "press the {} button",
        "push down the {} button",
        "press the button that is {}",
        "find the {} button and push it down",
    )

    def bodies(self) -> str:
        return "".join(
            f"""<body name='button{i}' pos='.45 {0.2 * i} 0'>
<geom type='box' size='.04 .04 .015' pos='0 0 .015' rgba='.36 .37 .40 1' {FIXTURE}/>
<body pos='0 0 .03'>
  <joint name='button{i}' type='slide' axis='0 0 1' range='-.012 0' stiffness='150' damping='4'
    springref='.004'/>
  <geom name='cap{i}' type='cylinder' size='.027 .014' pos='0 0 .012' mass='.05' {FIXTURE}/>
</body></body>"""
            for i in range(self.goals)
        )

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        self.points = scatter(rng, self.goals, (0.35, -0.32), (0.64, 0.32), 0.13)
        colours, self.target = mixed_colours(rng, COLOURS[variation], self.goals)
        for i, (point, colour) in enumerate(zip(self.points, colours, strict=True)):
            world.place(f"button{i}", point)
            world.paint(f"cap{i}", colour)
        self.pushed: int | None = None

    def watch(self, world: World) -> None:
        for i in range(self.goals):
            if self.pushed is None and world.joint(f"button{i}") < PRESSED:
                self.pushed = i
                self.failed = i != self.target

    def judge(self, world: World) -> bool:
        return self.pushed == self.target

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        for height in (0.16, 0.037):
            yield keyframe(np.array([*self.points[goal], height]), DOWN, 0.0)
