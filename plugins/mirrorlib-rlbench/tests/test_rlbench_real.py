"""Demonstrations recorded with RLBench itself, in the folder that MIRRORLIB_RLBENCH_DATA names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirrorlib_rlbench import Recording, RLBenchDataset, read_episode

DATA = os.environ.get("MIRRORLIB_RLBENCH_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MIRRORLIB_RLBENCH_DATA names no recordings")
ROOT = Path(DATA or ".")
CAMERAS = ["front", "left_shoulder", "right_shoulder", "wrist"]
LAYOUTS = {"train_peract": "all_variations", "test_peract": "all_variations"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "manifest.json").read_text())
    return found


def folder(row: dict[str, Any]) -> Path:
    layout = LAYOUTS.get(row["split"], f"variation{row['variation']}")
    return ROOT / row["split"] / row["task"] / layout / "episodes" / f"episode{row['episode']}"


def test_every_episode_is_as_its_maker_says(rows: list[dict[str, Any]]) -> None:
    assert len([row for row in rows if row["split"] not in LAYOUTS]) == 63
    for row in rows:
        episode = read_episode(folder(row))
        assert (episode.task, episode.variation) == (row["task"], row["variation"])
        assert episode.instructions[0] == row["instruction"]
        assert episode.keyframes == row["keyframes"]
        assert len(episode.frames) == row["steps_kept"] == len(episode.rgb["front"])
        assert list(episode.rgb) == CAMERAS  # not the placeholders of the overhead camera
        np.testing.assert_array_equal(episode.gripper_command, episode.gripper_open)


def equal(ours: Recording, theirs: Recording) -> bool:
    numbers = ("gripper_pose", "gripper_open", "joint_velocities", "joint_forces", "frames")
    assert all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in numbers)
    for camera in CAMERAS:
        for name in ("rgb", "depth", "intrinsics", "extrinsics"):
            a, b = getattr(ours, name)[camera], getattr(theirs, name)[camera]
            assert np.array_equal(a[[0, -1]], b[[0, -1]])
    return ours.instructions == theirs.instructions and ours.keyframes == theirs.keyframes


def test_layouts_agree(rows: list[dict[str, Any]]) -> None:
    copies = [row for row in rows if row["split"] in LAYOUTS]
    variations: dict[tuple[str, int], int] = {}
    for row in copies:
        split = row["split"].removesuffix("_peract")
        index = variations.get((split, row["variation"]), 0)
        variations[split, row["variation"]] = index + 1
        original = {**row, "split": split, "episode": index}
        assert equal(read_episode(folder(row)), read_episode(folder(original)))
    assert len(copies) == 18


TASKS = ("push_buttons", "slide_block_to_color_target", "open_drawer")


@pytest.mark.parametrize("task", TASKS)
def test_the_table_is_where_it_stands(task: str) -> None:
    """Its top comes out at 0.750 m from every standing camera, by mirrorlib's convention of
    pixels, and the cameras agree within 0.1 mm."""
    episode = RLBenchDataset(ROOT, [task], "test")[0]
    heights = []
    for camera in CAMERAS[:3]:
        depth = np.asarray(episode.depth[camera])
        frame = len(depth) // 2
        row, column = np.indices(depth[frame].shape) + 0.5
        pixels = np.stack([column, row, np.ones_like(row)], -1)
        rays = pixels @ np.linalg.inv(episode.intrinsics[camera][frame]).T
        matrix = episode.extrinsics[camera][frame]
        world = (rays * depth[frame][..., None]) @ matrix[:3, :3].T + matrix[:3, 3]
        table = world[np.abs(world[..., 2] - 0.75) < 0.01]
        assert len(table) > 2000
        heights.append(float(np.median(table[:, 2])))
    np.testing.assert_allclose(heights, 0.75, atol=1e-4)


def test_depth_is_decoded_as_rlbench_encodes_it() -> None:
    episode = read_episode(ROOT / "train/open_drawer/variation0/episodes/episode0")
    for camera, far in (("front", 4.5), ("left_shoulder", 3.2), ("wrist", 10.0)):
        stored = np.asarray(Image.open(episode.path / f"{camera}_depth" / "3.png")).astype(float)
        share = (65536 * stored[..., 0] + 256 * stored[..., 1] + stored[..., 2]) / (2**24 - 1)
        lazy = episode.depth[camera]
        assert lazy is not None
        np.testing.assert_allclose(lazy[3], 0.01 + share * (far - 0.01), rtol=1e-6)


def test_the_fixtures_written_by_rlbench_itself() -> None:
    """All five cameras; masks beside them are not pictures of colours."""
    if not (ROOT / "fixture").is_dir():
        pytest.skip("no fixtures there")
    for variation, steps in ((0, 10), (1, 11)):
        episode = read_episode(ROOT / f"fixture/open_drawer/variation{variation}/episodes/episode0")
        assert set(episode.rgb) == {*CAMERAS, "overhead"} and len(episode.frames) == steps
        assert all(depth is not None for depth in episode.depth.values())


def test_the_source_finds_them_in_both_layouts() -> None:
    source = RLBenchDataset(ROOT, TASKS)
    assert [len(source.keys(split)) for split in ("train", "val", "test")] == [44, 0, 19]
    assert {(key.task, key.variation) for key in source.keys("train")} == {
        (key.task, key.variation) for key in source.keys("test")
    }
    peract = RLBenchDataset(ROOT, folders={"train": "train_peract", "test": "test_peract"})
    assert [len(peract.keys(split)) for split in ("train", "test")] == [12, 6]
    episode = peract.episode(peract.keys("test")[-1])
    assert episode.variation == 2 and episode.descriptions[0] == "open top drawer"
