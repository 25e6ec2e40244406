"""Episodes on disk, the cache, and batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import CAMERAS, SIZE, FakeSource, episode

from mirrorlib.data.batches import PlannedBatches, label_episodes, load, middle_clip
from mirrorlib.data.cache import Cache
from mirrorlib.data.pairing import plan_batches
from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import EpisodeKey

KEY = EpisodeKey("train", "push", 1, 0)
LAYOUT = Layout(clip_frames=4, clip_cameras=("front",), step_cameras=("wrist", "front"))


def test_a_stored_episode_gives_back_observations_and_the_actions_they_led_to(tmp_path: Path):
    original = episode(KEY)
    write_episode(tmp_path / "e.safetensors", original, LAYOUT)
    stored = StoredEpisode(tmp_path / "e.safetensors")
    assert (stored.task, stored.variation, stored.steps) == ("push", 1, 3)
    assert stored.instruction == "push number 1"
    for index, (before, after) in enumerate([(0, 3), (3, 7), (7, 11)]):
        step = stored.step(index)
        for view, camera in enumerate(LAYOUT.step_cameras):
            rgb = original.rgb[camera][before].transpose(2, 0, 1)
            np.testing.assert_array_equal(step["rgb"][view], rgb)
            depth = original.depth[camera][before]
            np.testing.assert_allclose(step["depth"][view], depth, atol=3 / 65535)
        np.testing.assert_array_equal(step["proprioception"], original.proprioception[before])
        np.testing.assert_allclose(step["action"][:7], original.gripper_pose[after], rtol=1e-6)
        assert step["action"][7] == original.gripper_open[after]
        assert step["action"][8] == 1.0
    np.testing.assert_array_equal(all_frames(stored), original.rgb["front"])


def all_frames(stored: StoredEpisode) -> np.ndarray:
    """(T, H, W, 3)"""
    return stored.clip("front", range(stored.kept)).transpose(0, 2, 3, 1)


def test_long_clips_are_thinned_evenly(tmp_path: Path):
    original = episode(KEY, frames=100)
    write_episode(tmp_path / "e.safetensors", original, LAYOUT)
    kept = all_frames(StoredEpisode(tmp_path / "e.safetensors"))
    rows = np.linspace(0, 99, 16).round().astype(int)
    np.testing.assert_array_equal(kept, original.rgb["front"][rows])


def test_an_unknown_camera_is_named(tmp_path: Path):
    layout = Layout(4, ("front",), ("overhead",))
    with pytest.raises(UserError, match="no camera 'overhead'; its cameras are front, wrist"):
        write_episode(tmp_path / "e.safetensors", episode(KEY), layout)
    assert not list(tmp_path.iterdir())


def test_half_a_file_is_named(tmp_path: Path):
    path = tmp_path / "e.safetensors"
    write_episode(path, episode(KEY), LAYOUT)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"e\.safetensors: not a whole recorded episode"):
        StoredEpisode(path)


def test_recording_is_parallel_counts_failures_and_never_records_twice(tmp_path: Path):
    cache = Cache(tmp_path, "fake", FakeSource(count=2, failing=[1]), LAYOUT)
    assert len(cache.missing()) == 24
    cache.record(cache.missing(["train"]), workers=2, progress=False)
    assert cache.failures("train") == 4
    assert len(cache.episodes("train")) == 4
    assert {key.split for key in cache.missing()} == {"val", "test"}
    original = episode(EpisodeKey("train", "lift", 0, 0))
    np.testing.assert_array_equal(all_frames(cache.episodes("train")[0]), original.rgb["front"])


def test_the_cache_is_keyed_by_source_and_layout(tmp_path: Path):
    folders = {
        Cache(tmp_path, "fake", FakeSource(count), Layout(frames, ("front",), CAMERAS)).folder
        for count in (2, 3)
        for frames in (4, 8)
    }
    assert len(folders) == 4


@pytest.fixture
def batches(tmp_path: Path) -> PlannedBatches:
    cache = Cache(tmp_path, "fake", FakeSource(count=3), LAYOUT)
    for key in cache.missing(["train"]):
        write_episode(cache.path(key), cache.source.episode(key), LAYOUT)
    episodes = cache.episodes("train")
    plans = plan_batches(
        label_episodes(episodes), instructions=4, episodes=2, steps=5, pairing="instruction", seed=0
    )
    return PlannedBatches(episodes, plans, clip_frames=4)


def test_a_batch_holds_what_its_plan_says(batches: PlannedBatches):
    batch, plan = batches[2], batches.plans[2]
    assert batch.clips.frames.shape == (8, 4, 3, SIZE, SIZE)
    assert batch.clips.frames.dtype == torch.uint8
    assert batch.steps.rgb.shape == (8, 2, 3, SIZE, SIZE)
    assert batch.steps.action.shape == (8, 9)
    assert batch.clips.instruction == batch.steps.instruction
    for row, number in enumerate(plan.steps):
        chosen = batches.episodes[number]
        actions = np.stack([chosen.step(i)["action"] for i in range(chosen.steps)])
        assert (actions == batch.steps.action[row].numpy()).all(1).any()
        assert batch.steps.text[row] in chosen.descriptions
    assert (torch.from_numpy(plan.clips) == batch.labels[:, 0]).all()


def test_every_pairing_reads_the_same_clips_and_steps(batches: PlannedBatches):
    def rows(pairing: str) -> tuple[list[bytes], list[tuple]]:
        plans = plan_batches(
            batches.labels, instructions=4, episodes=2, steps=3, pairing=pairing, seed=0
        )
        batch = PlannedBatches(batches.episodes, plans, clip_frames=4)[2]
        steps = zip(batch.steps.action.tolist(), batch.steps.text, batch.steps.seed, strict=True)
        clips = [frames.numpy().tobytes() for frames in batch.clips.frames]
        return clips, sorted((*action, text, int(seed)) for action, text, seed in steps)

    first = rows("episode")
    assert rows("instruction") == first
    assert rows("task") == first


def test_two_processes_read_the_rows_of_one(batches: PlannedBatches):
    halves = [PlannedBatches(batches.episodes, batches.plans, 4, rank, 2)[1] for rank in range(2)]
    whole = batches[1]
    assert torch.equal(torch.cat([h.clips.frames for h in halves]), whole.clips.frames)
    assert torch.equal(torch.cat([h.steps.depth for h in halves]), whole.steps.depth)
    assert halves[0].steps.text + halves[1].steps.text == whole.steps.text


def test_loading_may_start_anywhere_and_reads_ahead(batches: PlannedBatches):
    late = list(load(batches, 3, workers=1))
    assert len(late) == 2
    assert torch.equal(late[0].clips.frames, batches[3].clips.frames)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_told_in_a_line(batches: PlannedBatches, workers: int):
    path = batches.episodes[batches.plans[1].clips[0]].path
    path.unlink()
    with pytest.raises(UserError) as caught:
        list(load(batches, 0, workers))
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: was recorded anew meanwhile") and line.endswith("goes on)")


def test_pictures_of_different_sizes_are_named_before_training(
    batches: PlannedBatches, tmp_path: Path
):
    original = episode(KEY)
    small = {
        part: {c: frames[:, :4, :4] for c, frames in getattr(original, part).items()}
        for part in ("rgb", "depth")
    }
    path = tmp_path / "small.safetensors"
    layout = Layout(4, ("front", "wrist"), CAMERAS)
    write_episode(path, replace(original, rgb=small["rgb"], depth=small["depth"]), LAYOUT)
    told = rf"{path}: clips of shape \(3, 4, 4\), but \(3, 8, 8\) in .*0-0\.safetensors; let all"
    with pytest.raises(UserError, match=told):
        PlannedBatches([*batches.episodes, StoredEpisode(path)], batches.plans, 4)
    write_episode(path, replace(original, rgb={**original.rgb, "wrist": small["rgb"]["wrist"]}),
                  replace(layout, step_cameras=("front",)))  # fmt: skip
    with pytest.raises(UserError, match=r"clips of shape .* in .*small"):
        PlannedBatches([StoredEpisode(path)], batches.plans, 4)
    write_episode(path, original, replace(LAYOUT, step_cameras=("front",)))
    with pytest.raises(UserError, match=r"steps' rgb of shape \(1, 3, 8, 8\), but \(2, 3, 8, 8\)"):
        PlannedBatches([*batches.episodes, StoredEpisode(path)], batches.plans, 4)


def test_a_middle_clip_takes_segment_middles(batches: PlannedBatches):
    episode, camera, rows, wording = middle_clip(batches.episodes[0], 4, "front")
    assert (camera, rows, wording) == ("front", [1, 4, 7, 10], "lift number 0")
    frames = episode.clip(camera, rows).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(frames, all_frames(episode)[rows])
