"""The simulator `rlbench`: keyframe actions in RLBench itself, where it is installed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mirrorlib.interfaces import ActionSpace, Episode, Observation
from mirrorlib_rlbench.actions import as_rlbench, checked_action, described, error_kinds
from mirrorlib_rlbench.config import SimulatorConfig
from mirrorlib_rlbench.launch import (
    Setup,
    Stage,
    check_variation,
    enter,
    leave,
    task_names,
)
from mirrorlib_rlbench.live import observed
from mirrorlib_rlbench.scenes import (
    Draws,
    StoredScene,
    draw_again,
    draw_from,
    moved,
    stored_scene,
)

PLACEMENTS = 3
"""How often a scene is laid out anew where RLBench, after 40 attempts, found no place in it."""
HERTZ = 20
"""Steps of RLBench's physics a second."""
SENSORS = {
    "front": "cam_front",
    "left_shoulder": "cam_over_shoulder_left",
    "right_shoulder": "cam_over_shoulder_right",
    "wrist": "cam_wrist",
    "overhead": "cam_overhead",
}
"""Cameras in CoppeliaSim's scene."""


class RLBenchSimulator:
    """A `mirrorlib.interfaces.Simulator`. Scenes are a function of (task, variation, seed), in
    processes of the same PYTHONHASHSEED, as push_buttons orders a set of strings; what moves in
    them is not, as RLBench's planner draws by itself.

    The arm follows a planned path to the action's pose, then the gripper opens or closes. Several
    of these in one process share one RLBench, and take turns where their setups differ.
    Raises UserError where RLBench, PyRep, CoppeliaSim or a display is missing.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config = config or SimulatorConfig()
        low, high = config.workspace[:3], config.workspace[3:]
        self.action_space = ActionSpace(
            low=np.array([*low, -1.0, -1.0, -1.0, -1.0, 0.0, 0.0]),
            high=np.array([*high, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        )
        film = config.video_camera
        self._setup = Setup(
            cameras=config.cameras,
            image_size=config.image_size,
            renderer=config.renderer,
            colours=() if film is None or film in config.cameras else (film,),
        )
        self._draws = Draws()
        self._task: Any = None
        self._ninth = False
        self._failure: dict[str, str] | None = None
        self._doubted = set[str]()
        self._enter()

    def tasks(self) -> dict[str, int]:
        """Of every task of the installed RLBench. Each is loaded, so it takes minutes."""
        names = tqdm(task_names(), desc="tasks", unit="task")
        self._task = None
        return {name: int(self._enter().task(name).variation_count()) for name in names}

    def reset(
        self, task: str, variation: int, seed: int, episode: Episode | None = None
    ) -> tuple[Observation, list[str]]:
        """As the interface says. episode: read by the source `rlbench`; its scene is laid out by
        the random state in its file. Where that fails, the first step says so and is the last.
        Raises UserError for an unknown task or variation, and for a file that tells no scene;
        RuntimeError where RLBench finds no place for the task in a new scene."""
        stored = None
        if episode is not None:
            task, variation, stored = episode.task, episode.variation, stored_scene(episode)
        with self._draws.own():
            stage = self._enter()
            self._task, self._ninth = stage.task(task), stage.ninth
            check_variation(self._task, task, variation)
            self._task.set_variation(variation)
            self._failure = None
            if episode is None or stored is None:
                draw_from(seed)
                descriptions, raw = self._laid_out(task, variation)
            else:
                draw_again(stored)
                descriptions, raw = self._restored(stored, episode)
        observation = self._observed(raw)
        if stored is not None and episode is not None and self._failure is None:
            self._compare(observation, stored, episode)
        return observation, [str(text) for text in descriptions]

    def step(self, action: NDArray[np.float64]) -> tuple[Observation, bool, bool, dict[str, Any]]:
        """As the interface says. `info["error_kind"]` beside `info["error"]` is `planning` (no
        path, out of the workspace), `ik` or `task`; the episode is done and failed then.

        `info["frames"]`, where a video camera is set, is what it saw at every step of the arm that
        is due by video_fps, and the end; only the end where RLBench tells of no steps.
        Raises ValueError for an action that is none, before anything moves.
        """
        checked = checked_action(action)
        if self._task is None:
            raise RuntimeError("step was called before reset")
        frames: list[NDArray[np.uint8]] = []
        with self._draws.own():
            raw, success, done, info = self._executed(checked, frames)
        if self.config.video_camera is not None:
            frames.append(np.asarray(getattr(raw, f"{self.config.video_camera}_rgb"), np.uint8))
            info["frames"] = np.stack(frames)
        return self._observed(raw), success, done, info

    def close(self) -> None:
        """Ends RLBench, unless another of these in this process still holds it."""
        self._task = None
        leave(self)

    def _enter(self) -> Stage:
        return enter(self, self._setup)

    def _executed(
        self, action: NDArray[np.float64], frames: list[NDArray[np.uint8]]
    ) -> tuple[Any, bool, bool, dict[str, Any]]:
        """RLBench's observation, success, done and info. Nothing moves after a failure."""
        if self._failure is None:
            try:
                with self._filming(frames):
                    raw, reward, ended = self._task.step(as_rlbench(action, self._ninth))
                return raw, bool(reward >= 1), bool(ended or reward >= 1), {}
            except tuple(error_kinds()) as error:
                self._failure = described(error)
        return self._task.get_observation(), False, True, dict(self._failure)

    def _laid_out(self, task: str, variation: int) -> tuple[list[str], Any]:
        """Descriptions and observation of a new scene."""
        for _ in range(PLACEMENTS):
            try:
                return self._task.reset()
            except tuple(error_kinds()) as error:
                reason = described(error)["error"]
        raise RuntimeError(f"RLBench found no place for {task}, variation {variation} ({reason})")

    def _restored(self, stored: StoredScene, episode: Episode) -> tuple[list[str], Any]:
        """Likewise of a recorded one."""
        try:
            return self._task.reset(*_demonstration(self._task, stored))
        except tuple(error_kinds()) as error:
            reason = described(error)["error"]
            self._failure = {"error": f"{stored.file}: {reason}", "error_kind": "task"}
            return list(episode.descriptions), self._task.get_observation()

    def _compare(self, live: Observation, stored: StoredScene, episode: Episode) -> None:
        """Says, once a task, that a restored scene is not the recorded one."""
        if episode.task not in self._doubted and (difference := moved(live, episode)):
            self._doubted.add(episode.task)
            print(
                f"mirrorlib: {stored.file}: the restored scene is another ({difference}); record "
                f"{episode.task} anew with the RLBench that is installed, or install the one that "
                "recorded it",
                file=sys.stderr,
            )

    def _observed(self, raw: Any) -> Observation:
        return observed(raw, self.config.cameras, self.config.proprioception)

    @contextmanager
    def _filming(self, frames: list[NDArray[np.uint8]]) -> Iterator[None]:
        """Keeps a video frame at every step of the arm where one is due, within the block."""
        register = getattr(getattr(self._task, "_scene", None), "register_step_callback", None)
        if self.config.video_camera is None or register is None:
            yield
            return
        from pyrep.objects.vision_sensor import VisionSensor

        sensor = VisionSensor(SENSORS[self.config.video_camera])
        every, clock = HERTZ / self.config.video_fps, 0.0

        def look() -> None:
            nonlocal clock
            if clock <= 0:
                sensor.handle_explicitly()
                frames.append((sensor.capture_rgb() * 255).astype(np.uint8))
                clock += every
            clock -= 1

        register(look)
        try:
            yield
        finally:
            register(None)


def _demonstration(task: Any, stored: StoredScene) -> tuple[Any, ...]:
    """What `reset` is given beside the random state: upstream, where the recording tells it, how
    often the scene was tried; PerAct's branch has no such argument."""
    if stored.attempts is None or "demo" not in inspect.signature(task.reset).parameters:
        return ()
    from rlbench.demo import Demo

    demo = Demo([], stored.state)
    demo.num_reset_attempts = stored.attempts
    return (demo,)
