"""Episodes that are damaged, incomplete or unsafe: each named in one line."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib_rlbench import read_episode

Writer = Any


def cut_picture(folder: Path) -> None:
    file = folder / "front_rgb" / "4.png"
    file.write_bytes(file.read_bytes()[:60])


def text_picture(folder: Path) -> None:
    (folder / "front_rgb" / "4.png").write_text("not a picture")


def huge_picture(folder: Path) -> None:
    file = folder / "front_rgb" / "4.png"
    whole = file.read_bytes()
    header = b"IHDR" + (4000).to_bytes(4, "big") * 2 + whole[24:29]
    file.write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])


def other_size(folder: Path) -> None:
    Image.new("RGB", (9, 7)).save(folder / "front_rgb" / "4.png")


def grey_picture(folder: Path) -> None:
    Image.new("L", (12, 12)).save(folder / "front_rgb" / "4.png")


BROKEN_PICTURES = {
    "a damaged picture": (cut_picture, text_picture),
    "claims 4000 x 4000": (huge_picture,),
    "9 x 7 pixels, but 0.png": (other_size,),
    "of mode L": (grey_picture,),
}


@pytest.mark.parametrize(
    ("told", "harm"), [(told, harm) for told, harms in BROKEN_PICTURES.items() for harm in harms]
)
def test_broken_pictures_are_named(write: Writer, told: str, harm: Any) -> None:
    folder = write()
    harm(folder)
    rgb = read_episode(folder).rgb["front"]
    rgb[3]
    with pytest.raises(UserError) as caught:
        rgb[4]
    (line,) = caught.value.lines
    assert line.startswith(f"{folder}/front_rgb/4.png: ") and told in line


def lost_picture(folder: Path) -> None:
    (folder / "front_depth" / "4.png").unlink()


def too_many_pictures(folder: Path) -> None:
    for place in folder.glob("*_*"):
        if place.is_dir():
            shutil.copy(place / "0.png", place / "9.png")


def no_pictures(folder: Path) -> None:
    for file in folder.glob("*/*.png"):
        file.unlink()


def pickled(content: Any) -> Any:
    return lambda folder: (folder / "low_dim_obs.pkl").write_bytes(pickle.dumps(content))


def repeated(folder: Path) -> None:
    """One observation, again and again."""
    kind = sys.modules["rlbench.backend.observation"].Observation
    (folder / "low_dim_obs.pkl").write_bytes(pickle.dumps([kind()] * 200_000, 4))


def cut_pickle(folder: Path) -> None:
    file = folder / "low_dim_obs.pkl"
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("file", "told", "harm"),
    [
        ("front_depth/4.png", "missing, though other cameras", lost_picture),
        ("low_dim_obs.pkl", "9 observations, but there are pictures up to 9", too_many_pictures),
        ("", "no pictures in front_rgb", no_pictures),
        ("low_dim_obs.pkl", "expected a demonstration's observations", pickled([])),
        ("low_dim_obs.pkl", "expected a demonstration's observations", pickled([1, 2])),
        ("low_dim_obs.pkl", "expected a demonstration's observations", pickled({"a": 1})),
        ("low_dim_obs.pkl", "expected a demonstration's observations", repeated),
        ("low_dim_obs.pkl", "a damaged pickle", cut_pickle),
        ("low_dim_obs.pkl", "cannot be read", lambda f: (f / "low_dim_obs.pkl").unlink()),
    ],
)
def test_incomplete_episodes_are_named(write: Writer, file: str, told: str, harm: Any) -> None:
    folder = write()
    harm(folder)
    with pytest.raises(UserError) as caught:
        read_episode(folder)
    (line,) = caught.value.lines
    assert line.startswith(f"{folder / file}: ") and told in line


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"gripper_pose": np.zeros(6)}, "gripper_pose of shape (6,); expected"),
        ({"gripper_pose": "text"}, "gripper_pose of type str; expected"),
        ({"joint_velocities": [1.0] * 7}, "joint_velocities of type list; expected"),
        ({"misc": {"front_camera_near": "0"}}, "front_camera_near of type str"),
    ],
)
def test_numbers_of_another_shape(write: Writer, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=r"low_dim_obs.pkl: frame 0 has ") as caught:
        read_episode(write(fields=fields))
    assert told in str(caught.value)


def test_unsafe_companions_are_refused(write: Writer) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    folder = write()
    told = folder.parents[1] / "variation_descriptions.pkl"
    told.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError, match=f"{told}: asks for {os.name}.system"):
        read_episode(folder)


def test_no_such_episode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; expected an episode with"):
        read_episode(tmp_path / "episode0")
