"""Which scene the simulator lays out, over a stand-in for RLBench."""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode
from mirrorlib_rlbench import RLBenchDataset
from mirrorlib_rlbench.config import CAMERAS, SimulatorConfig
from mirrorlib_rlbench.observations import Observations
from mirrorlib_rlbench.pictures import Pictures
from mirrorlib_rlbench.scenes import stored_scene
from mirrorlib_rlbench.simulator import RLBenchSimulator

SIZE = 24
MOVE = np.array([0.3, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
upstream = pytest.mark.parametrize("vintage", ["upstream"], indirect=True)


def test_scenes_depend_on_their_names_alone(simulator: RLBenchSimulator, alike: Any) -> None:
    once, texts = simulator.reset("turn_tap", 1, 2**62 + 5)
    assert texts == ["go to tap 1", "tap number 1 is it"]
    simulator.step(MOVE)
    for other in (5, 2**62):
        assert not alike(simulator.reset("turn_tap", 1, other)[0], once)
    other_task, texts = simulator.reset("open_drawer", 0, 2**62 + 5)
    assert texts[0] == "go to drawer 0" and not alike(other_task, once)
    assert alike(simulator.reset("turn_tap", 1, 2**62 + 5)[0], once)


def test_the_callers_draws_are_its_own(simulator: RLBenchSimulator) -> None:
    np.random.seed(3)
    random.seed(3)
    expected = np.random.uniform(size=3), random.random()
    np.random.seed(3)
    random.seed(3)
    drawn = [np.random.uniform()]
    simulator.reset("turn_tap", 0, 1)
    drawn.append(np.random.uniform())
    simulator.step(MOVE)
    drawn.append(np.random.uniform())
    assert drawn == expected[0].tolist() and random.random() == expected[1]


@pytest.mark.parametrize("proprioception", ["pose", "gripper"])
def test_a_live_frame_is_as_it_is_read(recorded: RLBenchDataset, proprioception: str) -> None:
    """The restored scene is the recording's, and every number as the source gives it."""
    options: Any = {"cameras": CAMERAS[:4], "proprioception": proprioception}
    source = RLBenchDataset(recorded.config.root, split="test", **options)
    simulator = RLBenchSimulator(SimulatorConfig(image_size=SIZE, **options))
    blocks = set()
    for episode in source:
        live, texts = simulator.reset("open_drawer", 0, 99, episode=episode)
        assert texts == list(episode.descriptions)
        for camera in source.properties.cameras:
            np.testing.assert_array_equal(live.rgb[camera], episode.rgb[camera][0])
            np.testing.assert_allclose(live.depth[camera], episode.depth[camera][0], atol=1e-6)
            assert live.depth[camera].dtype == np.float32
            np.testing.assert_array_equal(live.intrinsics[camera], episode.intrinsics[camera][0])
            np.testing.assert_array_equal(live.extrinsics[camera], episode.extrinsics[camera][0])
        np.testing.assert_array_equal(live.proprioception, episode.proprioception[0])
        np.testing.assert_array_equal(live.gripper_pose, episode.gripper_pose[0])
        assert live.gripper_open == episode.gripper_open[0] == 1
        assert len(live.proprioception) == source.properties.proprioception_dim
        blocks.add(live.rgb["front"].tobytes())
    assert len(blocks) == 2
    simulator.close()


@upstream
def test_how_often_a_scene_was_tried_is_restored(
    recorded: RLBenchDataset, control: Any, simulator: RLBenchSimulator
) -> None:
    simulator.reset("", 0, 0, episode=recorded[1])
    assert control.resets[-1].num_reset_attempts == 3
    simulator.reset("turn_tap", 0, 0)
    assert control.resets[-1] is None


def test_a_scene_without_a_place(
    control: Any, simulator: RLBenchSimulator, recorded: RLBenchDataset, alike: Any
) -> None:
    draws = (np.random.RandomState([seed, 0]).uniform(size=(3, 2))[:, 0] for seed in range(99))
    seed, first = next((s, d) for s, d in enumerate(draws) if d.argmax() == 2)
    control.unplaceable = first[2]
    simulator.reset("turn_tap", 0, seed)
    assert control.running.scene.drawn == first[2]
    control.unplaceable = 1.0
    with pytest.raises(RuntimeError, match=r"no place for turn_tap, variation 0 \(TaskEnv"):
        simulator.reset("turn_tap", 0, 1)
    episode = replace(recorded[0], descriptions=["as recorded"])
    before, texts = simulator.reset("", 0, 0, episode=episode)
    assert texts == ["as recorded"]
    after, success, done, info = simulator.step(MOVE)
    assert (success, done, info["error_kind"]) == (False, True, "task") and alike(before, after)
    assert "low_dim_obs.pkl: TaskEnvironmentError: Could not place" in info["error"]
    assert not control.sent
    control.unplaceable = 0.0
    simulator.reset("turn_tap", 0, 1)
    assert simulator.step(MOVE)[3] == {}


def test_another_scene_than_the_recorded_one_is_told(
    recorded: RLBenchDataset, simulator: RLBenchSimulator, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where another version of RLBench recorded it: here the file is another episode's."""
    for episode in recorded:
        simulator.reset("", 0, 0, episode=episode)
    wrong: Any = replace(recorded[0], origin=recorded[1].origin)
    for unlike in (
        replace(wrong, depth={}),
        replace(wrong, depth={"wrist": wrong.depth["wrist"]}),
        replace(wrong, depth={"front": wrong.depth["front"][:, :8]}),
        replace(wrong, depth={"front": Pictures(wrong.depth["front"].files[1:], np.ones((9, 2)))}),
    ):
        simulator.reset("", 0, 0, episode=unlike)
    assert capfd.readouterr().err == ""
    for camera in ("left_shoulder", "front"):
        other = RLBenchSimulator(SimulatorConfig(image_size=SIZE, cameras=("wrist", camera)))
        for _ in range(2):
            other.reset("", 0, 0, episode=wrong)
        (line,) = capfd.readouterr().err.splitlines()
        assert re.fullmatch(rf"mirrorlib: .*pkl: .* another \(\d+\.\d% of what {camera} .*", line)
        other.close()


def test_a_state_is_looked_at(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy would read beyond its keys where a file says so."""
    good = Observations(write("jar/variation0/episodes/episode0")).demo["random_seed"]

    def state(seed: Any, attempts: Any = None) -> Any:
        def told(self: Any, folder: Path) -> None:
            self.file, self.demo = folder, {"random_seed": seed, "num_reset_attempts": attempts}

        monkeypatch.setattr(Observations, "__init__", told)
        return stored_scene(episode_of(root="r", file="f", split="test", index=0)).state

    name, keys, place, kept, rest = good
    assert state(good, 3)[1].tolist() == keys.value.tolist() == state(good)[1].tolist()
    for bad in (
        (name, keys, 625, kept, rest),
        (name, keys, -1, kept, rest),
        (name, keys, 2**70, kept, rest),
        (name, keys, place, 2, rest),
        ("PCG64", keys, place, kept, rest),
        (name, replace(keys, value=keys.value[:600]), place, kept, rest),
        (name, replace(keys, value=keys.value * 0.5), place, kept, rest),
        (name, [1, 2], place, kept, rest),
        3,
        "MT19",
    ):
        with pytest.raises(UserError, match="f: its random_seed is damaged; fetch"):
            state(bad)
    for attempts in (0, -1, 41, "3", True, 2.0):
        with pytest.raises(UserError, match=r"f: its num_reset_attempts is .*; expected 1 to 40;"):
            state(good, attempts)
    assert state(good, 40)[1].tolist() == keys.value.tolist()
    with pytest.raises(UserError, match="tells no scene"):
        state(None)
    with pytest.raises(UserError, match="does not say which of RLBench's files"):
        stored_scene(episode_of(seed=3))


def episode_of(**origin: Any) -> Episode:
    nothing: Any = np.zeros(0)
    numbers: Any = (nothing, nothing, nothing, nothing)
    return Episode("jar", 0, [], {}, {}, {}, {}, *numbers, [0], True, origin)


@pytest.mark.skipif(
    not os.environ.get("MIRRORLIB_RLBENCH_DATA"), reason="needs MIRRORLIB_RLBENCH_DATA"
)
def test_real_recordings_tell_their_scenes() -> None:
    root = os.environ["MIRRORLIB_RLBENCH_DATA"]
    states = set()
    for split in ("test", "test_peract"):
        source = RLBenchDataset(root, split=split)
        for key in source.keys(split):  # type: ignore[arg-type]
            scene = stored_scene(source.episode(key))
            np.random.RandomState().set_state(scene.state)
            states.add((scene.state[1].tobytes(), scene.state[2]))
            assert scene.attempts is None or scene.attempts > 0
    assert len(states) == 19
