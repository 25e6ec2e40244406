"""The source: which episodes there are, what training is given, and what is told of mistakes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import mirrorlib
from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import EpisodeKey
from mirrorlib_rlbench import RLBenchDataset, pictures, read_episode

Writer = Any
CAMERAS = ("front", "wrist")


@pytest.fixture
def root(write: Writer, tmp_path: Path) -> Path:
    """Two tasks, one in either layout, and a third that only the test split has."""
    for variation in (0, 2, 10):
        for index in (0, 1, 10):
            write(
                f"train/jar/variation{variation}/episodes/episode{index}",
                variation=variation,
                descriptions=(f"open jar {variation}", "unscrew it"),
            )
    for index, variation in enumerate((1, 0, 1)):
        write(
            f"train/tap/all_variations/episodes/episode{index}",
            variation=variation,
            vintage="peract",
            descriptions=(f"turn tap {variation}",),
        )
    write("test/jar/variation0/episodes/episode0", descriptions=("open jar 0",))
    write("test/lamp/variation0/episodes/episode0", descriptions=("light the lamp",))
    (tmp_path / "train" / "notes").mkdir()
    return tmp_path


def keys(source: RLBenchDataset, split: Any = "train") -> list[str]:
    return [str(key) for key in source.keys(split)]


def test_keys(root: Path) -> None:
    source = RLBenchDataset(root, cameras=CAMERAS)
    assert keys(source) == [
        *(f"train/jar/{variation}/{index}" for variation in (0, 2, 10) for index in (0, 1, 10)),
        "train/tap/0/1", "train/tap/1/0", "train/tap/1/2",
    ]  # fmt: skip
    assert keys(source, "test") == ["test/jar/0/0", "test/lamp/0/0"]
    assert keys(source, "val") == []
    chosen = RLBenchDataset(root, {"tap": None, "jar": [10, 0]}, train=1, test=0)
    assert keys(chosen) == ["train/tap/0/1", "train/tap/1/0", "train/jar/0/0", "train/jar/10/0"]
    assert keys(chosen, "test") == []
    assert keys(RLBenchDataset(root, ["lamp"])) == []


def test_as_a_sequence(root: Path) -> None:
    source = RLBenchDataset(root, ["jar"], "test", cameras=CAMERAS)
    assert len(source) == 1 and source[0].descriptions == ["open jar 0"]
    assert [episode.task for episode in source] == ["jar"]
    with pytest.raises(IndexError):
        source[1]


def test_splits_in_other_folders(root: Path) -> None:
    (root / "train").rename(root / "learn")
    source = RLBenchDataset(root, folders={"train": "learn"}, cameras=CAMERAS)
    assert len(source.keys("train")) == 12 and len(source.keys("test")) == 2
    assert source.episode(source.keys("train")[0]).origin["split"] == "train"
    assert len(RLBenchDataset(root, split="learn")) == 12


def test_both_layouts_of_one_task_are_one(root: Path, write: Writer) -> None:
    write("train/jar/all_variations/episodes/episode5", vintage="peract")
    assert "train/jar/0/5" not in keys(RLBenchDataset(root))


def test_an_episode_is_as_the_interface_says(root: Path) -> None:
    source = RLBenchDataset(root, cameras=CAMERAS)
    assert source.properties.proprioception_dim == 8
    episode = source.episode(EpisodeKey("train", "jar", 2, 10))
    recording = read_episode(root / "train/jar/variation2/episodes/episode10")
    assert (episode.task, episode.variation) == ("jar", 2)
    assert episode.descriptions == ["open jar 2", "unscrew it"] and episode.success
    assert tuple(episode.rgb) == tuple(episode.depth) == CAMERAS
    assert episode.keyframes == [3, 8]
    np.testing.assert_array_equal(episode.gripper_open, [1, 1, 1, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(episode.ignore_collisions, np.ones(9))
    assert episode.proprioception.dtype == np.float32
    np.testing.assert_allclose(episode.proprioception[:, :7], recording.gripper_pose, atol=1e-7)
    np.testing.assert_array_equal(episode.proprioception[:, 7], episode.gripper_open)
    assert episode.origin["file"] == "train/jar/variation2/episodes/episode10"


def test_pixels_are_where_mirrorlib_expects_them(root: Path) -> None:
    """Rows of RLBench's pictures are half a pixel off, columns are not: the table lies flat."""
    episode = RLBenchDataset(root, cameras=CAMERAS)[0]
    for camera in CAMERAS:
        depth = np.asarray(episode.depth[camera])[0]
        (fx, _, cx), (_, fy, cy), _ = episode.intrinsics[camera][0]
        row, column = np.indices(depth.shape) + 0.5
        rays = np.stack([(column - cx) / fx, (row - cy) / fy, np.ones_like(row)], -1)
        matrix = episode.extrinsics[camera][0]
        world = (rays * depth[..., None]) @ matrix[:3, :3].T + matrix[:3, 3]
        np.testing.assert_allclose(world[..., 2][depth < 3.19], 0.75, atol=1e-4)
        assert cx == depth.shape[1] / 2


def test_what_arp_is_told(root: Path) -> None:
    source = RLBenchDataset(root, cameras=CAMERAS, proprioception="gripper")
    assert source.properties.proprioception_dim == 3
    expected = [[1, 0.04, 0.04]] * 3 + [[0, 0, 0]] * 4 + [[1, 0.04, 0.04]] * 2
    np.testing.assert_allclose(source[0].proprioception, expected)


LID = [1, 1, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 1]


def test_an_action_closes_on_what_reads_as_open(tmp_path: Path, write: Writer) -> None:
    write("train/jar/variation0/episodes/episode0", gripper=LID)
    episode = RLBenchDataset(tmp_path, cameras=CAMERAS)[0]
    assert episode.keyframes == [2, 8]
    np.testing.assert_array_equal(episode.gripper_open, [1, 1, 0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(episode.proprioception[:, 7], np.ones(9))  # as it reads


def test_planners_label_is_kept(tmp_path: Path, write: Writer) -> None:
    write("train/jar/variation0/episodes/episode0", fields={"ignore_collisions": 0})
    episode = RLBenchDataset(tmp_path, cameras=CAMERAS)[0]
    np.testing.assert_array_equal(episode.ignore_collisions, np.zeros(9))


def test_recording_decodes_only_what_is_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    original = pictures._colours

    def colours(file: Path) -> Any:
        decoded.append(f"{file.parent.name}/{file.name}")
        return original(file)

    source = pickle.loads(pickle.dumps(RLBenchDataset(root, cameras=CAMERAS)))
    episode = source.episode(source.keys("train")[0])
    monkeypatch.setattr(pictures, "_colours", colours)
    stored = tmp_path / "stored.safetensors"
    write_episode(stored, episode, Layout(1, ("wrist",), ("front",)))
    assert sorted(set(decoded)) == [
        "front_depth/0.png", "front_depth/3.png", "front_rgb/0.png", "front_rgb/3.png",
        "wrist_rgb/0.png", "wrist_rgb/3.png", "wrist_rgb/5.png", "wrist_rgb/8.png",
    ]  # fmt: skip
    step = StoredEpisode(stored).step(1)
    np.testing.assert_array_equal(step["rgb"][0].transpose(1, 2, 0), episode.rgb["front"][3])
    np.testing.assert_allclose(step["depth"][0], episode.depth["front"][3], atol=1e-4)
    assert step["action"].tolist() == pytest.approx([0.3, 0.08, 1, 0, 0, 0, 1, 1, 1])


def test_missing_data_is_told_when_it_is_needed(tmp_path: Path) -> None:
    """A recipe is checked, and its source built, on a machine without the data."""
    source = mirrorlib.build("source", "rlbench", root=str(tmp_path / "absent"))
    assert source.properties.cameras[0] == "front" and source.fingerprint()["source"] == "rlbench"
    with pytest.raises(UserError, match=f"source.root: no folder {tmp_path}/absent; download"):
        source.keys("train")
    (tmp_path / "open_drawer").mkdir()
    with pytest.raises(UserError, match="holds open_drawer, but none of train, val, test"):
        RLBenchDataset(tmp_path).keys("train")


def test_unknown_tasks_and_episodes(root: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'jars'; did you mean 'jar'\?; it has jar, lamp"):
        RLBenchDataset(root, ["jars"]).keys("train")
    with pytest.raises(UserError, match="has no episode train/jar/1/0"):
        RLBenchDataset(root).episode(EpisodeKey("train", "jar", 1, 0))


@pytest.mark.parametrize(
    ("options", "changes", "told"),
    [
        ({}, {"descriptions": None}, "no instruction; fetch its variation_descriptions.pkl"),
        ({}, {"vintage": "2020"}, "no depth of camera front"),
        ({"cameras": ("front", "overhead")}, {}, "no camera 'overhead'"),
        ({"proprioception": "gripper"}, {"fields": {"gripper_joint_positions": None}},
         "gripper_joint_positions was not recorded; .* set source.proprioception to pose"),
    ],
)  # fmt: skip
def test_what_training_cannot_use(
    tmp_path: Path, write: Writer, options: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    folder = write("train/jar/variation0/episodes/episode0", **changes)
    with pytest.raises(UserError, match=f"{folder}: {told}"):
        RLBenchDataset(tmp_path, **{"cameras": CAMERAS, **options})[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"folders": {"train": "test"}}, "splits share a folder"),
        ({"folders": {"training": "a"}}, "'train', 'val' or 'test'"),
        ({"cameras": ("front", "front")}, "name one twice"),
        ({"workspace": (0, 0, 1, 1, 1, 0.5)}, "smallest x, y, z first"),
        ({"camera": "front"}, "Extra inputs"),
    ],
)
def test_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RLBenchDataset("anywhere", **options)


def test_the_fingerprint_tells_what_decides_an_episode(root: Path) -> None:
    def of(**changes: Any) -> dict[str, Any]:
        return dict(RLBenchDataset(root, **changes).fingerprint())

    assert of() == of(train=3, tasks=["jar"])
    assert of() != of(cameras=("front",))
    assert of() != of(proprioception="gripper")
    assert of() != of(folders={"train": "learn"})
    assert of() != dict(RLBenchDataset(root / "train").fingerprint())


def test_reading_and_listing_need_no_torch_and_no_rlbench() -> None:
    program = (
        "import sys, mirrorlib_rlbench, mirrorlib_rlbench.plugin, mirrorlib_rlbench.config\n"
        "mirrorlib_rlbench.read_episode\n"
        "assert not {'torch', 'rlbench', 'pyrep'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
