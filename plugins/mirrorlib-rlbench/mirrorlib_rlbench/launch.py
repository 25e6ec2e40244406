"""The one RLBench that a process can hold: launched, shared and ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mirrorlib.errors import UserError, suggestion
from mirrorlib.plugins import summary
from mirrorlib_rlbench import installation
from mirrorlib_rlbench.actions import told_of_collisions
from mirrorlib_rlbench.config import CAMERAS

PERACT_ONLY = (
    "place_wine_at_rack_location",
    "slide_block_to_color_target",
    "sweep_to_dustpan_of_size",
)


@dataclass(frozen=True)
class Setup:
    """What RLBench is launched with. cameras: drawn in colour and depth. colours: cameras drawn in
    colour alone. recording: moved by its demonstrations, with all that these sense, rather than by
    keyframe actions."""

    cameras: tuple[str, ...]
    image_size: int
    renderer: Literal["opengl", "opengl3"] = "opengl"
    colours: tuple[str, ...] = ()
    recording: bool = False


class Stage:
    """A launched RLBench with at most one task. ninth: whether actions have nine numbers."""

    def __init__(self, setup: Setup) -> None:
        """Raises UserError where RLBench cannot run here, with what mends it."""
        for check in (
            installation.check_simulator,
            installation.check_pyrep,
            installation.check_rlbench,
            installation.check_display,
        ):
            if problem := check():
                raise UserError(f"the simulator rlbench cannot run: {problem}")
        with _importing():
            from rlbench.action_modes.action_mode import MoveArmThenGripper
            from rlbench.action_modes.gripper_action_modes import Discrete
            from rlbench.environment import Environment
        arm = _arm(setup)
        self.setup, self.ninth = setup, told_of_collisions(arm)
        self.environment = Environment(
            MoveArmThenGripper(arm, Discrete()), obs_config=_senses(setup), headless=True
        )
        self.environment.launch()
        self._task: tuple[str, Any] | None = None

    def task(self, name: str) -> Any:
        """RLBench's TaskEnvironment, loaded in place of another task's. Raises UserError."""
        if self._task is None or self._task[0] != name:
            self._task = None
            self._task = name, self.environment.get_task(_task_class(name))
        return self._task[1]

    def drop_task(self) -> None:
        """Has it loaded anew when next asked for: a failure may have left it broken."""
        self._task = None

    def shutdown(self) -> None:
        self.environment.shutdown()


@dataclass
class _Running:
    """This process's stage, and who holds it."""

    stage: Stage | None = None
    holders: set[int] = field(default_factory=set)

    def end(self) -> None:
        stage, self.stage = self.stage, None
        self.holders.clear()
        if stage is not None:
            stage.shutdown()


_RUNNING = _Running()


def enter(holder: object, setup: Setup) -> Stage:
    """The stage with that setup, launched where it is not the one that runs: CoppeliaSim is once in
    a process, so another setup's is ended. To be asked for again before every scene."""
    if _RUNNING.stage is None or _RUNNING.stage.setup != setup:
        _RUNNING.end()
        _RUNNING.stage = Stage(setup)
    _RUNNING.holders.add(id(holder))
    return _RUNNING.stage


def leave(holder: object) -> None:
    """Ends the stage when the last that holds it leaves."""
    if id(holder) in _RUNNING.holders:
        _RUNNING.holders.remove(id(holder))
        if not _RUNNING.holders:
            _RUNNING.end()


def task_names() -> list[str]:
    """Of the installed RLBench, sorted."""
    with _importing():
        from rlbench.backend.task import TASKS_PATH
    names = {file.stem for file in Path(TASKS_PATH).glob("*.py")}
    return sorted(names - {"__init__"})


def check_task(name: str) -> None:
    """Raises UserError for a task that the installed RLBench lacks."""
    known = task_names()
    if name in known:
        return
    if name in PERACT_ONLY:
        raise UserError(
            f"the installed RLBench has no task {name!r}, which PerAct's branch alone has; run "
            f"{installation.INSTALL_PERACT}, or leave the task out"
        )
    raise UserError(
        f"RLBench has no task {name!r}{suggestion(name, known)}; it has {', '.join(known)}"
    )


def check_variation(task: Any, name: str, variation: int) -> None:
    """task: a TaskEnvironment. Raises UserError for a variation that it lacks."""
    count = task.variation_count()
    if not 0 <= variation < count:
        raise UserError(
            f"RLBench's task {name!r} has no variation {variation}; choose from 0 to {count - 1}"
        )


def _task_class(name: str) -> Any:
    check_task(name)
    with _importing():
        from rlbench.backend.utils import task_file_to_task_class
    return task_file_to_task_class(name)


def _arm(setup: Setup) -> Any:
    with _importing():
        from rlbench.action_modes import arm_action_modes
    if setup.recording:
        return arm_action_modes.JointVelocity()
    return arm_action_modes.EndEffectorPoseViaPlanning()


def _senses(setup: Setup) -> Any:
    """RLBench's ObservationConfig with only what is asked for: no masks, no point clouds."""
    with _importing():
        from pyrep.const import RenderMode
        from rlbench.observation_config import ObservationConfig
    senses = ObservationConfig()
    senses.set_all(False)
    if setup.recording:
        senses.set_all_low_dim(True)
    senses.gripper_open = senses.gripper_pose = senses.gripper_joint_positions = True
    for name in CAMERAS:
        camera = getattr(senses, f"{name}_camera")
        camera.rgb = name in (*setup.cameras, *setup.colours)
        camera.depth = name in setup.cameras
        camera.image_size = (setup.image_size, setup.image_size)
        camera.render_mode = RenderMode[setup.renderer.upper()]
        camera.depth_in_meters = False
    return senses


@contextmanager
def _importing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"RLBench does not import ({summary(error)}); run `mirrorlib doctor`, or see "
            "mirrorlib-rlbench's README for a full installation"
        ) from error
