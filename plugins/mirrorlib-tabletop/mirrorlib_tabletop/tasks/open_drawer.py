"""Open one of a cabinet's three drawers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mirrorlib_tabletop.geometry import Array, from_axes, keyframe
from mirrorlib_tabletop.scene import FIXTURE
from mirrorlib_tabletop.tasks.base import Task
from mirrorlib_tabletop.world import World

OPENED, TOUCHED = 0.12, 0.04
HEIGHTS = (0.35, 0.225, 0.10)
HANDLE = 0.16
"""From the cabinet's middle to its handles."""
PITCH = np.deg2rad(60)
"""The tool points so far below the horizon: a horizontal gripper reaches badly."""
FACING = np.deg2rad(68)
"""Where the drawers open to: seen from the front, the left and the robot alike."""


def _panel(size: str, position: str, rgba: str = ".52 .36 .24 1", extra: str = "") -> str:
    return f"<geom type='box' size='{size}' pos='{position}' rgba='{rgba}' {extra} {FIXTURE}/>"


def _bar(start: str, end: str, radius: float, extra: str) -> str:
    return f"""<geom type='capsule' fromto='{start} {end}' size='{radius}' rgba='.20 .20 .23 1'
{extra} {FIXTURE}/>"""


class OpenDrawer(Task):
    """The first drawer that comes out counts."""

    name = "open_drawer"
    goals = 3
    words = (("top",), ("middle",), ("bottom",))
    wordings = (
        "open the {} drawer",
        "pull the {} drawer open",
        "slide the {} drawer open",
        "grip the {} handle and pull the {} drawer open",
        "pull out the drawer at the {}",
    )

    def descriptions(self, variation: int) -> list[str]:
        return [wording.format(*self.words[variation] * 2) for wording in self.wordings]

    def bodies(self) -> str:
        shell = (
            _panel(".12 .01 .22", "0 .16 .22")
            + _panel(".12 .01 .22", "0 -.16 .22")
            + _panel(".12 .17 .008", "0 0 .448")
            + _panel(".008 .16 .22", "-.12 0 .22")
        )
        drawers = "".join(
            f"""<body pos='0 0 {height}'>
<joint name='drawer{i}' type='slide' axis='1 0 0' range='0 .18' damping='8' frictionloss='1'/>
{_panel(".008 .145 .054", ".11 0 0", ".84 .70 .52 1", "mass='.3'")}
{_panel(".1 .14 .004", "0 0 -.05", ".70 .55 .40 1", "mass='.2'")}
{_bar(".16 0 -.03", ".16 0 .03", 0.009, "mass='.05' friction='1.5'")}
{_bar(".16 0 .025", ".115 0 .025", 0.006, "mass='.01'")}
{_bar(".16 0 -.025", ".115 0 -.025", 0.006, "mass='.01'")}</body>"""
            for i, height in enumerate(HEIGHTS)
        )
        return f"<body name='cabinet' pos='.5 -.3 0'>{shell}{drawers}</body>"

    def lay_out(self, world: World, variation: int, rng: np.random.Generator) -> None:
        self.target = variation
        self.centre = rng.uniform((0.42, -0.35), (0.50, -0.28))
        self.facing = FACING + rng.uniform(-0.25, 0.25)
        world.place("cabinet", self.centre, self.facing)

    def watch(self, world: World) -> None:
        self.failed |= any(
            world.joint(f"drawer{i}") > TOUCHED for i in range(self.goals) if i != self.target
        )

    def judge(self, world: World) -> bool:
        return world.joint(f"drawer{self.target}") > OPENED

    def expert(self, world: World, goal: int) -> Iterator[Array]:
        out = np.array([np.cos(self.facing), np.sin(self.facing), 0.0])
        ahead = -np.cos(PITCH) * out - np.array([0.0, 0.0, np.sin(PITCH)])
        across = np.cross(out, [0.0, 0.0, 1.0])
        grasp = from_axes(np.cross(across, ahead), across, ahead)
        handle = np.array([*self.centre, HEIGHTS[goal]]) + HANDLE * out + 0.008 * ahead
        yield keyframe(handle - 0.14 * ahead, grasp, 1.0)
        yield keyframe(handle, grasp, 0.0)
        yield keyframe(handle + 0.16 * out, grasp, 0.0)
