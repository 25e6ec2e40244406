"""The simulator over a stand-in for RLBench: every call, in both vintages."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib_rlbench import RLBenchDataset, installation
from mirrorlib_rlbench.config import CAMERAS, SimulatorConfig
from mirrorlib_rlbench.simulator import RLBenchSimulator

SIZE, BLOCK = 24, 250
DOWN = [0.0, 1.0, 0.0, 0.0]
upstream = pytest.mark.parametrize("vintage", ["upstream"], indirect=True)


def action(*place: float, quaternion: Any = DOWN, gripper: float = 1.0) -> np.ndarray:
    return np.array([*place, *quaternion, gripper, 0.0])


def test_only_what_is_needed_is_drawn(control: Any) -> None:
    config = SimulatorConfig(image_size=SIZE, cameras=("wrist", "front"), video_camera="overhead")
    simulator = RLBenchSimulator(config)
    observation, _ = simulator.reset("open_drawer", 0, 1)
    assert list(observation.rgb) == list(observation.depth) == ["wrist", "front"]
    assert observation.rgb["front"].shape == (SIZE, SIZE, 3)
    (senses,) = control.launches
    drawn = {c: getattr(senses, f"{c}_camera") for c in CAMERAS}
    assert {c for c in CAMERAS if drawn[c].rgb} == {"front", "wrist", "overhead"}
    assert {c for c in CAMERAS if drawn[c].depth} == {"front", "wrist"}
    assert not any(camera.mask or camera.point_cloud for camera in drawn.values())
    assert {camera.render_mode.name for camera in drawn.values()} == {"OPENGL"}
    assert senses.gripper_pose and not senses.joint_forces and not senses.task_low_dim_state
    simulator.close()
    assert control.running is None
    simulator.close()


def test_the_table_is_flat(simulator: RLBenchSimulator) -> None:
    """In mirrorlib's convention of pixels, as the stand-in draws by RLBench's."""
    observation, _ = simulator.reset("turn_tap", 0, 4)
    row, column = np.indices((SIZE, SIZE)) + 0.5
    pixels = np.stack([column, row, np.ones_like(row)], -1)
    for camera, depth in observation.depth.items():
        rays = pixels @ np.linalg.inv(observation.intrinsics[camera]).T * depth[..., None]
        matrix = observation.extrinsics[camera]
        height = (rays @ matrix[:3, :3].T + matrix[:3, 3])[..., 2]
        table = (depth < 3.19) & (observation.rgb[camera][..., 0] != BLOCK)
        assert table.sum() > 100
        np.testing.assert_allclose(height[table], 0.75, atol=1e-5)
        assert observation.intrinsics[camera][0, 0] > 0 and np.linalg.det(matrix[:3, :3]) > 0


def test_what_is_sent(control: Any, simulator: RLBenchSimulator, vintage: str) -> None:
    simulator.reset("turn_tap", 0, 1)
    sent = action(0.3, 0.1, 1.0, quaternion=[0.0, 3.0, 0.0, -4.0], gripper=0.4)
    for collisions in (0.4, 0.6):
        sent[8] = collisions
        observation, success, done, info = simulator.step(sent)
        np.testing.assert_allclose(control.sent[-1][0], [0.3, 0.1, 1.0, 0, 0.6, 0, -0.8])
        assert control.sent[-1][1:] == ((collisions > 0.5,) if vintage == "peract" else ())
        assert (success, done, info) == (False, False, {})
        assert observation.gripper_open == 0.0  # 0.4 closes it: no ninth number came in its place


def test_success(recorded: RLBenchDataset, simulator: RLBenchSimulator) -> None:
    """The demonstration's keyframes solve the restored scene."""
    episode = recorded[0]
    simulator.reset("", 0, 0, episode=episode)
    done = success = False
    for frame in range(1, len(episode.gripper_pose)):
        pose, gripper = episode.gripper_pose[frame], episode.gripper_open[frame]
        _, success, done, _ = simulator.step(np.array([*pose, gripper, 1.0]))
    assert success and done


@pytest.mark.parametrize(
    "broken",
    [np.zeros(8), np.full(9, np.nan), np.zeros(9), action(0, 0, np.inf), action(0, 0, 1)[None]],
)
@upstream
def test_no_action(control: Any, simulator: RLBenchSimulator, broken: np.ndarray) -> None:
    simulator.reset("turn_tap", 0, 1)
    with pytest.raises(ValueError, match="action"):
        simulator.step(broken)
    assert not control.sent


def test_errors_end_the_episode_by_kind(
    control: Any, simulator: RLBenchSimulator, alike: Any
) -> None:
    from pyrep.errors import ConfigurationPathError, IKError
    from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError

    told = {
        InvalidActionError("no\n path"): ("planning", "InvalidActionError: no path"),
        ConfigurationPathError(): ("planning", "ConfigurationPathError"),
        IKError("too far"): ("ik", "IKError: too far"),
        TaskEnvironmentError("odd"): ("task", "TaskEnvironmentError: odd"),
    }
    for error, (kind, text) in told.items():
        first, _ = simulator.reset("turn_tap", 0, 1)
        control.errors[:] = [error]
        observation, success, done, info = simulator.step(action(0.3, 0.0, 1.0))
        assert (success, done, info) == (False, True, {"error": text, "error_kind": kind})
        assert alike(observation, first)
    simulator.reset("turn_tap", 0, 1)
    info = simulator.step(action(0.3, 0.0, 5.0))[3]
    assert info["error_kind"] == "planning" and info["error"].endswith("target is outside.")
    simulator.reset("turn_tap", 0, 1)
    control.errors[:] = [RuntimeError("the simulator's own")]
    with pytest.raises(RuntimeError, match="own"):
        simulator.step(action(0.3, 0.0, 1.0))


def test_a_video(control: Any) -> None:
    config = SimulatorConfig(image_size=SIZE, video_camera="front", video_fps=10)
    simulator = RLBenchSimulator(config)
    simulator.reset("turn_tap", 0, 1)
    observation, _, _, info = simulator.step(action(0.3, 0.0, 1.0))
    assert info["frames"].shape == (4, SIZE, SIZE, 3) and info["frames"].dtype == np.uint8
    np.testing.assert_array_equal(info["frames"][-1], observation.rgb["front"])
    assert control.running.scene.callback is None
    control.errors[:] = [RuntimeError("broken")]
    with pytest.raises(RuntimeError, match="broken"):
        simulator.step(action(0.3, 0.1, 1.0))
    assert control.running.scene.callback is None
    del type(control.running.scene).register_step_callback  # an RLBench that tells of no steps
    assert len(simulator.step(action(0.3, 0.1, 1.0))[3]["frames"]) == 1
    simulator.close()


@upstream
def test_a_process_holds_one_rlbench(control: Any, alike: Any) -> None:
    ours = RLBenchSimulator(SimulatorConfig(image_size=SIZE))
    film = RLBenchSimulator(SimulatorConfig(image_size=SIZE, video_camera="front"))
    first, _ = ours.reset("turn_tap", 0, 1)
    film.reset("open_drawer", 0, 1)
    assert alike(ours.reset("turn_tap", 0, 1)[0], first) and len(control.launches) == 1
    other = RLBenchSimulator(SimulatorConfig(image_size=SIZE, video_camera="overhead"))
    other.reset("turn_tap", 0, 1)
    assert alike(ours.reset("turn_tap", 0, 1)[0], first) and len(control.launches) == 3
    film.reset("turn_tap", 0, 1)
    ours.close()
    other.close()
    assert control.running is not None
    film.close()


def test_tasks(control: Any, simulator: RLBenchSimulator, vintage: str) -> None:
    more = {"slide_block_to_color_target": 4} if vintage == "peract" else {}
    assert simulator.tasks() == {"open_drawer": 3, "turn_tap": 2} | more
    for task, variation, told in (
        ("open_drawr", 0, "no task 'open_drawr'; did you mean 'open_drawer'?; it has open_drawer"),
        ("turn_tap", 2, "'turn_tap' has no variation 2; choose from 0 to 1"),
        ("turn_tap", -1, "has no variation -1"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            simulator.reset(task, variation, 0)
    if vintage == "upstream":
        with pytest.raises(UserError, match=r"PerAct's branch alone has; run `pip .*RLBench.git@p"):
            simulator.reset("slide_block_to_color_target", 0, 0)
    simulator.reset("turn_tap", 1, 0)


@upstream
def test_use_before_reset(simulator: RLBenchSimulator) -> None:
    with pytest.raises(RuntimeError, match="before reset"):
        simulator.step(action(0.3, 0.0, 1.0))


@upstream
def test_what_is_missing_is_said(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(told: str) -> None:
        with pytest.raises(UserError, match=told) as error:
            RLBenchSimulator()
        assert len(error.value.lines) == 1

    with monkeypatch.context() as patch:
        patch.delenv("DISPLAY")
        refused(r"cannot run: DISPLAY is not set.*xvfb-run -a")
    with monkeypatch.context() as patch:
        patch.delenv("COPPELIASIM_ROOT")
        refused("COPPELIASIM_ROOT is not set")
    with monkeypatch.context() as patch:
        patch.setattr(installation, "find_spec", lambda name: None)
        refused("not installed; with CoppeliaSim in place")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyrep.const", None)
        refused(r"RLBench does not import \(.*pyrep.const.*mirrorlib doctor")


@upstream
def test_a_recipe_can_name_it(control: Any) -> None:
    simulator = mirrorlib.build("simulator", "rlbench", image_size=SIZE, cameras=["front"])
    assert list(simulator.reset("turn_tap", 0, 1)[0].rgb) == ["front"]
    np.testing.assert_allclose(simulator.action_space.low[:3], [-0.3, -0.5, 0.6])
    simulator.close()
