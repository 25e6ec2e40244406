"""The simulator `tabletop`: closed-loop execution of keyframe actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError
from mirrorlib.interfaces import ActionSpace, Episode, Observation
from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.geometry import Array
from mirrorlib_tabletop.graphics import make_context
from mirrorlib_tabletop.render import Renderer
from mirrorlib_tabletop.scene import scene_xml
from mirrorlib_tabletop.tasks import TASKS, VARIATIONS, Task
from mirrorlib_tabletop.world import HERTZ, HIGH, LOW, World

PROPRIOCEPTION_DIM = 9
WORKSPACE = (0.15, -0.4, -0.02, 0.95, 0.4, 0.78)
MAX_KEYFRAMES = 25


@dataclass(frozen=True)
class Stage:
    """What is compiled once a task."""

    task: Task
    world: World
    renderer: Renderer


class TabletopSimulator:
    """A `mirrorlib.interfaces.Simulator`. Scenes depend on (task, variation, seed) alone.

    Proprioception (9,): the tool's xyz and quaternion xyzw, the gripper's opening in [0, 1], and
    the keyframe actions executed since `reset`, divided by 25.
    Raises UserError where the machine has no graphics library.
    """

    action_space = ActionSpace(
        low=np.array([*LOW, -1.0, -1.0, -1.0, -1.0, 0.0, 0.0]),
        high=np.array([*HIGH, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    )

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self._graphics = make_context(self.config.image_size)
        self._stages: dict[str, Stage] = {}
        self._stage = self._prepare(next(iter(TASKS)))
        self._executed = 0
        self._video_clock = 0.0

    def tasks(self) -> dict[str, int]:
        return dict(VARIATIONS)

    @property
    def task(self) -> Task:
        """The task of the present scene."""
        return self._stage.task

    def reset(
        self, task: str, variation: int, seed: int, episode: Episode | None = None
    ) -> tuple[Observation, list[str]]:
        """As the interface says. Raises UserError for an unknown task or variation."""
        if episode is not None:
            task, variation = episode.task, episode.variation
            seed = episode.origin["seed"]
        check_variation(task, variation)
        self._stage = self._prepare(task)
        self._stage.task.reset(self._stage.world, variation, seed)
        self._executed = 0
        self._video_clock = 0.0
        return self.observe(), self._stage.task.descriptions(variation)

    def step(
        self, action: NDArray[np.float64], watch: Callable[[], None] | None = None
    ) -> tuple[Observation, bool, bool, dict[str, Any]]:
        """As the interface says; ignore_collisions is ignored, the tool moves in straight lines.

        `watch` is called before every control tick (HERTZ a second). The episode is done when the
        task is solved, or when another goal than the instructed one was gone for.
        Raises ValueError for an action that is none.
        """
        action = checked_action(action)
        task, world = self._stage.task, self._stage.world
        frames: list[NDArray[np.uint8]] = []

        def before() -> None:
            if watch is not None:
                watch()
            self._film(frames)

        error = world.execute(action, before, lambda: task.watch(world))
        self._executed += 1
        info: dict[str, Any] = {}
        if world.diverged:
            task.failed, error = True, "the physics diverged"
        if error is not None:
            info["error"] = error
        if self.config.video_camera is not None:
            info["frames"] = np.array(frames, np.uint8).reshape(
                -1, self.config.image_size, self.config.image_size, 3
            )
        success = not task.failed and task.judge(world)
        return self.observe(), success, success or task.failed, info

    def expert(self, goal: int | None = None) -> Iterator[Array]:
        """Actions (9,) that solve the present scene, or that go for another of its goals. Each is
        to be executed before the next is asked for."""
        return self.task.expert(self._stage.world, self.task.target if goal is None else goal)

    def observe(self) -> Observation:
        """What the robot senses now."""
        world, renderer, cameras = self._stage.world, self._stage.renderer, self.config.cameras
        renderer.update(world.data)
        images = {camera: renderer.draw(camera) for camera in cameras}
        pose, opening = world.pose, world.opening
        return Observation(
            rgb={camera: rgb for camera, (rgb, _) in images.items()},
            depth={camera: depth for camera, (_, depth) in images.items()},
            intrinsics={camera: renderer.intrinsics(camera) for camera in cameras},
            extrinsics={camera: renderer.extrinsics(camera) for camera in cameras},
            gripper_pose=pose,
            gripper_open=float(opening > 0.9),
            proprioception=np.array(
                [*pose, opening, self._executed / MAX_KEYFRAMES], dtype=np.float32
            ),
        )

    def close(self) -> None:
        """Frees the graphics memory; the simulator is not used again."""
        for stage in self._stages.values():
            stage.renderer.close()
        self._stages.clear()
        self._graphics.free()

    def _prepare(self, task: str) -> Stage:
        if task not in self._stages:
            made = TASKS[task]()
            world = World(scene_xml(made.assets, made.bodies()))
            renderer = Renderer(world.model, self.config.image_size, self._graphics)
            self._stages[task] = Stage(made, world, renderer)
        return self._stages[task]

    def _film(self, frames: list[NDArray[np.uint8]]) -> None:
        """Keeps a video frame where one is due; called once a control tick."""
        if self.config.video_camera is None:
            return
        if self._video_clock <= 0:
            self._stage.renderer.update(self._stage.world.data)
            frames.append(self._stage.renderer.draw(self.config.video_camera)[0])
            self._video_clock += HERTZ / self.config.video_fps
        self._video_clock -= 1


def check_variation(task: str, variation: int) -> None:
    """Raises UserError, naming what there is, for an unknown task or variation."""
    if task not in VARIATIONS:
        raise UserError(f"the tabletop has no task `{task}`; choose from {', '.join(VARIATIONS)}")
    if not 0 <= variation < VARIATIONS[task]:
        raise UserError(
            f"the tabletop's task `{task}` has no variation {variation}; "
            f"choose from 0 to {VARIATIONS[task] - 1}"
        )


def checked_action(action: NDArray[np.float64]) -> Array:
    """The action with a unit quaternion. Raises ValueError where it is no action."""
    checked = np.array(action, dtype=np.float64)
    if checked.shape != (9,):
        raise ValueError(f"an action has shape (9,), not {checked.shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"an action must be finite: {checked.tolist()}")
    length = np.linalg.norm(checked[3:7])
    if length < 1e-6:
        raise ValueError(f"an action's quaternion must not be zero: {checked.tolist()}")
    checked[3:7] /= length
    return checked
