"""The simulator's contract: scenes, actions, and that only the first choice counts."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode, Observation
from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.geometry import DOWN, angle_between, down, keyframe
from mirrorlib_tabletop.simulator import TabletopSimulator
from mirrorlib_tabletop.tasks import TASKS, VARIATIONS

COLOUR_TASKS = ("push_buttons", "lift_block", "slide_block_to_color_target", "stack_blocks")


def digest(observation: Observation) -> str:
    """A hash of every pixel and number of an observation."""
    hasher = hashlib.sha256(observation.gripper_pose.tobytes())
    hasher.update(observation.proprioception.tobytes())
    for camera in observation.rgb:
        hasher.update(observation.rgb[camera].tobytes())
        hasher.update(observation.depth[camera].tobytes())
    return hasher.hexdigest()


def scene_and_step(simulator: TabletopSimulator, task: str, variation: int, seed: int) -> list[str]:
    first, _ = simulator.reset(task, variation, seed)
    return [digest(first), digest(simulator.step(next(simulator.expert()))[0])]


def test_instructions_are_many_distinct_and_plain() -> None:
    wordings = [
        TASKS[task]().descriptions(variation)
        for task, count in VARIATIONS.items()
        for variation in range(count)
    ]
    instructions = [wording[0] for wording in wordings]
    everything = [text for wording in wordings for text in wording]
    assert len(instructions) >= 35
    assert len(set(everything)) == len(everything)
    assert all(len(wording) >= 5 for wording in wordings)
    assert all(text == " ".join(text.lower().split()) for text in everything)
    assert {"push the red button", "open the top drawer", "stack 2 red blocks", "turn left tap",
            "slide the block to red target"} <= set(instructions)  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_scenes_depend_on_their_names_alone(simulator: TabletopSimulator, task: str) -> None:
    once = scene_and_step(simulator, task, 1, 11)
    for other in range(3):
        scene_and_step(simulator, task, 0, other)
    assert scene_and_step(simulator, task, 1, 11) == once
    assert scene_and_step(simulator, task, 1, 12)[0] != once[0]


def test_scenes_are_the_same_in_another_process(simulator: TabletopSimulator) -> None:
    script = (
        "import importlib.util as u, sys;"
        f"s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s);"
        "s.loader.exec_module(m);"
        "sim = m.TabletopSimulator(m.SimulatorConfig(image_size=64));"
        "print(*[x for t in m.TASKS for x in m.scene_and_step(sim, t, 1, 21)])"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    here = [x for task in TASKS for x in scene_and_step(simulator, task, 1, 21)]
    assert other.stdout.split() == here


def test_an_episode_restores_its_scene(simulator: TabletopSimulator) -> None:
    wanted = digest(simulator.reset("lift_block", 3, 77)[0])
    nothing = np.zeros(0)
    episode = Episode(
        "lift_block", 3, [], {}, {}, {}, {}, nothing, nothing, nothing, nothing, [0], True,
        origin={"seed": 77},
    )  # type: ignore[arg-type]  # fmt: skip
    assert digest(simulator.reset("turn_tap", 0, 1, episode=episode)[0]) == wanted


@pytest.mark.parametrize("task", TASKS)
def test_a_still_robot_never_succeeds(simulator: TabletopSimulator, task: str) -> None:
    for variation in range(0, VARIATIONS[task], 3):
        observation, _ = simulator.reset(task, variation, variation)
        pose = observation.gripper_pose
        for gripper in (1.0, 0.0, 1.0):
            _, success, done, _ = simulator.step(keyframe(pose[:3], pose[3:], gripper))
            assert not success and not done


@pytest.mark.parametrize("task", TASKS)
def test_going_for_another_goal_fails_for_good(simulator: TabletopSimulator, task: str) -> None:
    simulator.reset(task, 1, 4)
    target, goals = simulator.task.target, simulator.task.goals
    for action in simulator.expert((target + 1) % goals):
        _, success, done, _ = simulator.step(action)
        assert not success
    assert done
    for action in simulator.expert(target):
        assert simulator.step(action)[1:3] == (False, True)


def test_a_stack_of_the_wrong_height_fails_when_declared(simulator: TabletopSimulator) -> None:
    observation, descriptions = simulator.reset("stack_blocks", 4, 8)
    assert descriptions[0] == "stack 3 red blocks"
    for _, action in zip(range(6), simulator.expert(), strict=False):  # the first block
        observation, success, done, _ = simulator.step(action)
        assert not success and not done
    raised = np.array([*observation.gripper_pose[:2], 0.42])
    assert simulator.step(keyframe(raised, DOWN, 1.0))[1:3] == (False, True)


@pytest.mark.parametrize("task", COLOUR_TASKS)
def test_colours_are_distinct_and_shuffled(simulator: TabletopSimulator, task: str) -> None:
    """The target's place among the goals, and in the room, is not told by its number."""
    targets = set()
    for seed in range(12):
        simulator.reset(task, 0, seed)
        targets.add(simulator.task.target)
    assert simulator.task.goals == 6
    assert len(targets) >= 3


def test_free_motions_end_within_a_millimetre_or_two(simulator: TabletopSimulator) -> None:
    rng = np.random.default_rng(0)
    simulator.reset("turn_tap", 0, 5)
    for _ in range(12):
        position = rng.uniform((0.3, -0.28, 0.25), (0.58, 0.28, 0.4))
        wanted = keyframe(position, down(rng.uniform(-1, 1)), float(rng.integers(2)))
        observation, _, _, info = simulator.step(wanted)
        assert "error" not in info
        assert np.linalg.norm(observation.gripper_pose[:3] - position) < 2e-3
        assert angle_between(observation.gripper_pose[3:], wanted[3:7]) < 0.01
        assert observation.gripper_open == wanted[7]


def test_proprioception_is_pose_opening_and_progress(simulator: TabletopSimulator) -> None:
    first, _ = simulator.reset("lift_block", 0, 6)
    second = simulator.step(keyframe(np.array([0.5, 0.0, 0.3]), DOWN, 0.0))[0]
    for observation, count in ((first, 0), (second, 1)):
        assert observation.proprioception.shape == (9,)
        assert observation.proprioception.dtype == np.float32
        np.testing.assert_allclose(
            observation.proprioception[:7], observation.gripper_pose, atol=1e-6
        )
        assert observation.gripper_pose[3] > 0  # near DOWN = (1, 0, 0, 0), not its negative
        assert observation.proprioception[8] == pytest.approx(count / 25)
    assert first.proprioception[7] > 0.95 and first.gripper_open == 1.0
    assert second.proprioception[7] < 0.05 and second.gripper_open == 0.0


@pytest.mark.parametrize(
    "position", [(5.0, 0.0, 0.5), (-0.05, 0.0, 0.02), (0.95, 0.75, 0.9), (1e12, 0.0, -1e12)]
)
def test_out_of_reach_is_told_and_survived(
    simulator: TabletopSimulator, position: tuple[float, ...]
) -> None:
    simulator.reset("push_buttons", 0, 7)
    observation, success, _, info = simulator.step(keyframe(np.array(position), DOWN, 1.0))
    assert isinstance(info["error"], str) and not success
    assert np.isfinite(observation.proprioception).all()
    info = simulator.step(keyframe(np.array([0.5, 0.0, 0.3]), DOWN, 1.0))[3]
    assert "error" not in info


def test_the_quaternion_is_normalised(simulator: TabletopSimulator) -> None:
    action = keyframe(np.array([0.5, 0.1, 0.3]), down(0.4), 1.0)
    scaled = action.copy()
    scaled[3:7] *= -7.0
    poses = []
    for one in (action, scaled):
        simulator.reset("turn_tap", 0, 8)
        poses.append(simulator.step(one)[0].gripper_pose)
    np.testing.assert_allclose(poses[0], poses[1], atol=1e-9)


@pytest.mark.parametrize(
    "action",
    [np.zeros(8), np.zeros((1, 9)), np.full(9, np.nan), np.array([0.5, 0, 0.3, 0, 0, 0, 0, 1, 1])],
)
def test_what_is_no_action_is_refused(simulator: TabletopSimulator, action: np.ndarray) -> None:
    simulator.reset("turn_tap", 0, 8)
    with pytest.raises(ValueError, match="action"):
        simulator.step(action)


def test_unknown_tasks_and_variations_name_what_there_is(simulator: TabletopSimulator) -> None:
    with pytest.raises(UserError, match="push_buttons"):
        simulator.reset("push_button", 0, 0)
    with pytest.raises(UserError, match="0 to 1"):
        simulator.reset("turn_tap", 2, 0)


def test_actions_and_tasks_are_described(simulator: TabletopSimulator) -> None:
    assert simulator.tasks() == VARIATIONS
    space = simulator.action_space
    assert space.low.shape == space.high.shape == (9,)
    assert (space.low < space.high).all()


def test_a_video_camera_films_the_motion() -> None:
    simulator = TabletopSimulator(
        SimulatorConfig(image_size=32, cameras=("wrist",), video_camera="front", video_fps=10)
    )
    frames = 0
    ticks = 0

    def count() -> None:
        nonlocal ticks
        ticks += 1

    simulator.reset("push_buttons", 0, 1)
    for action in simulator.expert():
        observation, _, _, info = simulator.step(action, count)
        assert info["frames"].shape[1:] == (32, 32, 3) and info["frames"].dtype == np.uint8
        frames += len(info["frames"])
    assert set(observation.rgb) == {"wrist"}
    assert abs(frames - ticks / 2) <= 1
    simulator.close()
