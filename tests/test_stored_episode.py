"""Reading one episode's file: what safetensors would read, in place, leaving nothing open."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import episode

from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import EpisodeKey

KEY = EpisodeKey("train", "push", 1, 0)
LAYOUT = Layout(clip_frames=2, clip_cameras=("front",), step_cameras=("wrist", "front"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train" / "push" / "1-0.safetensors"
    write_episode(path, episode(KEY), LAYOUT)
    return path


def test_arrays_lie_where_safetensors_says(file: Path) -> None:
    from safetensors.numpy import load_file

    arrays, stored = load_file(file), StoredEpisode(file)
    for index in range(-stored.steps, stored.steps):
        step = stored.step(index)
        for name, value in step.items():
            expected = arrays[name][index]
            if name == "depth":
                expected = expected.astype(np.float32) * arrays["depth_scale"][0]
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(stored.clip("front", [3, 0, 3]), arrays["clip/front"][[3, 0, 3]])
    with pytest.raises(IndexError, match="none of number 3"):
        stored.step(3)


def test_cameras_of_different_sizes_are_named(tmp_path: Path) -> None:
    original = episode(KEY)
    rgb = {**original.rgb, "wrist": original.rgb["wrist"][:, :4, :6]}
    told = r"push, variation 1: cameras of different sizes \(wrist 6 x 4, front 8 x 8\); choose"
    with pytest.raises(UserError, match=told):
        write_episode(tmp_path / "e.safetensors", replace(original, rgb=rgb), LAYOUT)


def test_pictures_of_another_size_are_named(file: Path) -> None:
    stored = StoredEpisode(file)
    with pytest.raises(UserError, match=rf"{file}: clip/front of shape \(3, 8, 8\) beside .*4, 4"):
        stored.read_clip("front", [0], np.empty((1, 3, 4, 4), np.uint8))


def test_reading_leaves_no_file_open(file: Path) -> None:
    episodes = [StoredEpisode(file) for _ in range(50)]
    before = len(os.listdir("/proc/self/fd"))
    for stored in episodes:
        stored.step(0)
        stored.clip("front", [1])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_was_recorded_anew_is_not_read(file: Path) -> None:
    stored = StoredEpisode(file)
    stored.step(0)
    write_episode(file, replace(episode(KEY), descriptions=["another length"]), LAYOUT)
    told = rf"{file}: was recorded anew meanwhile; begin the run again \(train\.resume=true goes on"
    for read in (lambda: stored.step(0), lambda: stored.clip("front", [0])):
        with pytest.raises(UserError, match=told):
            read()
    StoredEpisode(file).step(0)
    file.unlink()
    with pytest.raises(UserError, match=told):
        stored.step(0)


def test_the_same_content_written_again_is_another_file(file: Path) -> None:
    stored, content = StoredEpisode(file), file.read_bytes()
    beside = file.with_name("beside")
    beside.write_bytes(content)
    beside.replace(file)
    with pytest.raises(UserError, match="recorded anew"):
        stored.step(0)
