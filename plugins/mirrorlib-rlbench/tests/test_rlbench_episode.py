"""Episodes of every vintage and layout, and what is decoded of them."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib_rlbench import Recording, pictures, read_episode

Writer = Any


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are decoded, as `folder/file`."""
    seen: list[str] = []
    original = pictures._colours

    def colours(file: Path) -> Any:
        seen.append(f"{file.parent.name}/{file.name}")
        return original(file)

    monkeypatch.setattr(pictures, "_colours", colours)
    return seen


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_upstream(write: Writer, protocol: int) -> None:
    folder = write("jar/variation3/episodes/episode7", protocol=protocol, variation=3)
    episode = read_episode(folder)
    assert isinstance(episode, Recording)
    assert (episode.task, episode.variation) == ("jar", 3)
    assert episode.instructions == ["open the drawer", "pull it open"]
    assert list(episode.rgb) == list(episode.depth) == ["front", "left_shoulder", "wrist"]
    assert episode.frames.tolist() == list(range(9))
    assert episode.gripper_open is not None
    assert episode.gripper_open.tolist() == [1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert episode.gripper_pose is not None and episode.gripper_pose.shape == (9, 7)
    np.testing.assert_allclose(episode.gripper_pose[:, 1], 0.01 * np.arange(9))
    assert episode.joint_positions is not None and episode.joint_positions.shape == (9, 7)
    assert episode.joint_forces is None and episode.gripper_matrix is None
    assert episode.ignore_collisions is None
    assert episode.keyframes == [3, 8]  # 7 is beside the last


def test_peract_agrees_with_upstream(write: Writer) -> None:
    peract = read_episode(
        write("jar/all_variations/episodes/episode0", vintage="peract", variation=5)
    )
    upstream = read_episode(write("jar/variation5/episodes/episode0", variation=5))
    assert (peract.task, peract.variation) == (upstream.task, upstream.variation) == ("jar", 5)
    assert peract.instructions == upstream.instructions
    assert peract.keyframes == upstream.keyframes
    for camera in upstream.rgb:
        np.testing.assert_array_equal(peract.rgb[camera], upstream.rgb[camera])
        assert (peract.depth[camera] == upstream.depth[camera]).all()
    named = write("jar/all_variations/episodes/episode1", vintage="peract", variation=4)
    (named / "variation_number.pkl").unlink()
    assert read_episode(named).variation == 4


def test_2020_has_no_metric_depth(write: Writer) -> None:
    episode = read_episode(write(vintage="2020"))
    assert episode.depth == {"front": None, "left_shoulder": None, "wrist": None}
    assert episode.intrinsics["front"] is not None and episode.rgb["front"].shape == (9, 12, 12, 3)


def test_2019_is_a_list_of_other_names(write: Writer) -> None:
    widths = [1, 0.95, 0.5, 0.2, 0.2, 0.2, 0.5, 0.95, 1]
    episode = read_episode(
        write(vintage="2019", gripper=widths, cameras=("left_shoulder", "wrist"), protocol=3)
    )
    assert list(episode.rgb) == ["left_shoulder", "wrist"]
    assert episode.rgb["wrist"][:].shape == (9, 12, 12, 3)
    assert set(episode.depth.values()) == {None}
    assert set(episode.intrinsics.values()) == set(episode.extrinsics.values()) == {None}
    assert episode.gripper_open is not None
    assert episode.gripper_open.tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1]
    assert episode.keyframes == [2, 8]
    assert episode.variation == 0 and episode.gripper_touch_forces is None


def test_a_later_field_is_read(write: Writer) -> None:
    episode = read_episode(write(fields={"ignore_collisions": np.array(1.0), "joint_forces": None}))
    assert episode.ignore_collisions is not None and episode.ignore_collisions.tolist() == [1] * 9


@pytest.mark.parametrize("told", [None, {"a": 1}, [1, 2], ["a"] * 10_000, ["a" * 10_000]])
def test_missing_descriptions_are_no_error(write: Writer, told: Any) -> None:
    assert read_episode(write(descriptions=told)).instructions == []


def test_geometry(write: Writer, scene: Any) -> None:
    """Every pixel that sees the table lies on it, in our axes as in RLBench's."""
    episode = read_episode(write())
    for camera in episode.rgb:
        depth = np.asarray(episode.depth[camera])
        np.testing.assert_allclose(
            depth, np.broadcast_to(scene.cast(camera), depth.shape), atol=1e-6
        )
        intrinsics, extrinsics = episode.intrinsics[camera], episode.extrinsics[camera]
        assert intrinsics is not None and extrinsics is not None
        assert intrinsics[0, 0, 0] == intrinsics[0, 1, 1] == scene.focal
        np.testing.assert_allclose(np.linalg.det(extrinsics[:, :3, :3]), 1)
        np.testing.assert_allclose(extrinsics[0, :, 2:], scene.poses[camera][:, 2:])
        row, column = np.indices(depth[0].shape)
        pixels = np.stack([column, row, np.ones_like(row)], -1)
        rays = pixels @ np.linalg.inv(intrinsics[0]).T * depth[0][..., None]
        world = rays @ extrinsics[0, :3, :3].T + extrinsics[0, :3, 3]
        seen = depth[0] < 3.19
        assert seen.sum() > 40
        np.testing.assert_allclose(world[..., 2][seen], 0.75, atol=1e-5)


def test_nothing_is_decoded_before_it_is_asked_for(write: Writer, decoded: list[str]) -> None:
    episode = read_episode(write(), cameras=["wrist", "front"])
    assert list(episode.rgb) == ["wrist", "front"] and not decoded
    assert episode.rgb["wrist"].shape == (9, 12, 12, 3) and len(episode.rgb["wrist"]) == 9
    depth = episode.depth["front"]
    assert depth is not None and depth.shape == (9, 12, 12) and depth.ndim == 3
    assert not decoded
    assert episode.rgb["wrist"][3][0, 0, 0] == 3
    assert decoded == ["wrist_rgb/3.png"]
    assert depth[[1, 4]].shape == (2, 12, 12) and depth[[1, 4]].dtype == np.float32
    assert decoded[1:3] == ["front_depth/1.png", "front_depth/4.png"]


def test_pictures_index_as_arrays_do(write: Writer) -> None:
    episode = read_episode(write(), cameras=["front"])
    for lazy in (episode.rgb["front"], episode.depth["front"]):
        assert lazy is not None
        whole = np.asarray(lazy)
        assert whole.shape == lazy.shape and whole.dtype == lazy.dtype
        wanted: list[Any] = [
            2, -1, np.int64(4), slice(1, 7, 2), slice(None, None, -3), [5, 0], [], ...,
            np.arange(9) % 2 == 0, np.array([[0, 1], [2, 3]]), (3, 4), (slice(2), 0, slice(3)),
            (..., 0), ([1, 2], slice(1, 3)), None,
        ]  # fmt: skip
        for key in wanted:
            np.testing.assert_array_equal(lazy[key], whole[key])
        with pytest.raises(IndexError):
            lazy[9]
        np.testing.assert_array_equal(np.stack(list(lazy)), whole)
        np.testing.assert_array_equal(lazy + 1, whole + 1)
        assert np.isfinite(lazy).all() and (lazy == lazy).all()
        assert np.asarray(lazy, np.float64).dtype == np.float64
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy)), whole)
    with pytest.raises(ValueError, match="copy"):
        np.array(episode.rgb["front"], copy=False)


def test_trimmed_and_thinned_episodes(write: Writer) -> None:
    """Pictures of some frames alone: rows are those frames', keyframes their positions."""
    episode = read_episode(write(frames=[0, 2, 3, 5, 8]))
    assert episode.frames.tolist() == [0, 2, 3, 5, 8]
    assert episode.rgb["front"][:, 0, 0, 0].tolist() == [0, 2, 3, 5, 8]
    assert episode.depth["front"] is not None and episode.depth["front"].shape[0] == 5
    assert episode.gripper_open is not None and episode.gripper_open.tolist() == [1, 1, 0, 0, 1]
    assert episode.gripper_pose is not None
    np.testing.assert_allclose(episode.gripper_pose[:, 1], [0, 0.02, 0.03, 0.05, 0.08])
    assert episode.keyframes == [2, 4]
    cut = read_episode(write("other/variation0/episodes/episode0", frames=[0, 1, 2]))
    assert cut.keyframes == [2]


def test_cameras(write: Writer) -> None:
    folder = write()
    for kind in ("rgb", "depth"):
        (folder / f"overhead_{kind}").mkdir()
        for frame in range(9):
            Image.new("RGB", (1, 1)).save(folder / f"overhead_{kind}" / f"{frame}.png")
    shutil.rmtree(folder / "wrist_depth")
    episode = read_episode(folder)
    assert "overhead" not in episode.rgb and episode.depth["wrist"] is None
    overhead = read_episode(folder, ["overhead"])
    assert overhead.rgb["overhead"].shape == (9, 1, 1, 3)
    assert overhead.depth["overhead"] is overhead.intrinsics["overhead"] is None
    assert read_episode(folder, []).rgb == {}
    with pytest.raises(UserError, match=r"no camera .up.*it has front, left_shoulder"):
        read_episode(folder, ["up"])


def test_a_relative_path(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write("jar/variation2/episodes/episode0"))
    episode = read_episode(".")
    assert (episode.task, episode.variation) == ("jar", 2)
