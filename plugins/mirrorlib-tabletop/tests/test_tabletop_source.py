"""The source's contract: what is recorded, and that it can be done again."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from mirrorlib.errors import DemonstrationFailed, UserError
from mirrorlib.interfaces import EpisodeKey
from mirrorlib.randomness import scene_seed
from mirrorlib_tabletop.config import SourceConfig
from mirrorlib_tabletop.geometry import keyframe
from mirrorlib_tabletop.simulator import TabletopSimulator
from mirrorlib_tabletop.source import TabletopSource
from mirrorlib_tabletop.tasks import TASKS, VARIATIONS


@pytest.fixture(scope="module")
def source() -> Iterator[TabletopSource]:
    made = TabletopSource(SourceConfig(image_size=32, cameras=("front", "wrist")))
    yield made
    made.close()


def test_keys_cover_every_instruction(source: TabletopSource) -> None:
    keys = source.keys("train")
    assert len(keys) == len(set(keys)) == sum(VARIATIONS.values()) * source.config.train
    chosen = TabletopSource(SourceConfig(tasks={"turn_tap": None, "lift_block": [3, 1]}, test=2))
    assert [str(key) for key in chosen.keys("test")] == [
        "test/turn_tap/0/0", "test/turn_tap/0/1", "test/turn_tap/1/0", "test/turn_tap/1/1",
        "test/lift_block/1/0", "test/lift_block/1/1", "test/lift_block/3/0", "test/lift_block/3/1",
    ]  # fmt: skip


def test_splits_never_share_a_seed() -> None:
    seeds = {
        scene_seed(task, variation, split, index)
        for task, count in VARIATIONS.items()
        for variation in range(count)
        for split in ("train", "val", "test")
        for index in range(50)
    }
    assert len(seeds) == sum(VARIATIONS.values()) * 150


@pytest.mark.parametrize(
    ("tasks", "named"),
    [({"push_button": None}, "push_buttons"), ({"turn_tap": [0, 2]}, "0 to 1")],
)
def test_unknown_tasks_name_what_there_is(tasks: dict[str, list[int] | None], named: str) -> None:
    with pytest.raises(UserError, match=named):
        TabletopSource(SourceConfig(tasks=tasks))


@pytest.mark.parametrize("task", TASKS)
def test_episodes_hold_what_the_interface_says(source: TabletopSource, task: str) -> None:
    episode = source.episode(EpisodeKey("train", task, 1, 0))
    frames = len(episode.gripper_pose)
    assert set(episode.rgb) == {"front", "wrist"}
    for camera in episode.rgb:
        assert episode.rgb[camera].shape == (frames, 32, 32, 3)
        assert episode.depth[camera].shape == (frames, 32, 32)
        assert episode.intrinsics[camera].shape == (frames, 3, 3)
        assert episode.extrinsics[camera].shape == (frames, 4, 4)
    assert episode.gripper_pose.shape == (frames, 7)
    assert episode.gripper_open.shape == episode.ignore_collisions.shape == (frames,)
    assert episode.proprioception.shape == (frames, source.properties.proprioception_dim)
    keyframes = np.array(episode.keyframes)
    assert keyframes[0] > 0 and keyframes[-1] == frames - 1 and (np.diff(keyframes) > 0).all()
    progress = episode.proprioception[:, 8] * 25
    np.testing.assert_allclose(progress[keyframes], np.arange(1, len(keyframes) + 1), atol=1e-5)
    assert episode.success and episode.ignore_collisions.all()
    low, high = source.properties.workspace[:3], source.properties.workspace[3:]
    reached = episode.gripper_pose[keyframes, :3]
    assert (reached > low).all() and (reached < high).all()


def frames_between_keyframes(rate: float) -> np.ndarray:
    source = TabletopSource(SourceConfig(image_size=16, cameras=("front",), frames_per_second=rate))
    episode = source.episode(EpisodeKey("train", "turn_tap", 0, 0))
    source.close()
    return np.diff([0, *episode.keyframes]) - 1


def test_frames_come_at_the_rate_asked_for() -> None:
    """At 20 a second a frame is kept at every control tick, at 4 at every fifth."""
    np.testing.assert_array_equal(
        frames_between_keyframes(4.0), frames_between_keyframes(20.0) // 5
    )


def test_a_spawned_worker_records_the_same(source: TabletopSource) -> None:
    key = EpisodeKey("test", "lift_block", 2, 1)
    here = source.episode(key)  # opens the simulator, which must not travel
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(TabletopSource.episode, source, key).result()
    for camera in here.rgb:
        np.testing.assert_array_equal(here.rgb[camera], there.rgb[camera])
        np.testing.assert_array_equal(here.depth[camera], there.depth[camera])
    np.testing.assert_array_equal(here.gripper_pose, there.gripper_pose)
    assert here.origin == there.origin and here.keyframes == there.keyframes
    assert pickle.loads(pickle.dumps(source)).config == source.config


@pytest.mark.parametrize("task", TASKS)
def test_stored_keyframes_solve_the_scene_again(
    simulator: TabletopSimulator, source: TabletopSource, task: str
) -> None:
    """A policy learns the poses that the robot reached: they must work as actions."""
    for index in range(2):
        episode = source.episode(EpisodeKey("val", task, index, index))
        simulator.reset(task, 0, 0, episode=episode)
        success = False
        for frame in episode.keyframes:
            pose, gripper = episode.gripper_pose[frame], episode.gripper_open[frame]
            _, success, done, _ = simulator.step(keyframe(pose[:3], pose[3:], gripper))
            assert done == success
        assert success


def test_an_expert_that_fails_gives_no_episode(
    source: TabletopSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TabletopSimulator, "expert", lambda self: iter(()))
    with pytest.raises(DemonstrationFailed, match="train/turn_tap/0/0"):
        source.episode(EpisodeKey("train", "turn_tap", 0, 0))


def test_the_fingerprint_tells_what_decides_an_episode(source: TabletopSource) -> None:
    def of(**changes: object) -> dict[str, object]:
        return dict(TabletopSource(SourceConfig(**changes)).fingerprint())  # type: ignore[arg-type]

    assert of() == of(train=3, tasks={"turn_tap": [0]})
    assert of() != of(image_size=64)
    assert of() != of(frames_per_second=2)
    assert of() != of(cameras=("front",))
    assert "mujoco" in of()
