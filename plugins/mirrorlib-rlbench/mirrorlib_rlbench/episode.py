"""One recorded episode of RLBench's, read without RLBench, PyRep or CoppeliaSim."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError
from mirrorlib_rlbench.config import CAMERAS
from mirrorlib_rlbench.keyframes import gripper_command, keyframes
from mirrorlib_rlbench.observations import FILE, Observations, optional
from mirrorlib_rlbench.pictures import Pictures

VARIATION = "variation_number.pkl"
DESCRIPTIONS = "variation_descriptions.pkl"
SENTENCES, LETTERS = 100, 1000
"""Of a list of descriptions at most; RLBench's have some six of some fifty."""
FOCAL = np.array([[-1.0, 1, 1], [1, -1, 1], [1, 1, 1]])
AXES = np.array([[-1.0, -1, 1, 1]] * 4)
"""Signs that turn RLBench's camera axes, with its focal lengths, to OpenCV's."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode. T counts the frames present; what its vintage did not record is None.

    task, variation: from the files, else from the folders' names. instructions: the first is the
    canonical wording; empty where the file is missing or holds something else.
    frames: (T,) the numbers of the pictures, 0 to T - 1 unless frames were trimmed away.
    rgb[camera]: (T, H, W, 3) uint8. depth[camera]: (T, H, W) float32, metres along the optical
    axis; the far plane's distance where nothing was hit; None where the near and far planes or
    the pictures are missing. Both are decoded when read (`Pictures`).
    intrinsics[camera]: (T, 3, 3) pixels, and extrinsics[camera]: (T, 4, 4) camera to world, in
    OpenCV's axes (x right, y down, z forward): RLBench's focal lengths and first two axes are
    turned round. The middle of the pixel in column u and row v is (u + 0.5, v) by what cameras see
    of the same walls and table; RLBench itself takes (u, v), which errs by 4 mm sideways.
    gripper_pose: (T, 7) xyz in metres and quaternion xyzw, world frame. gripper_open: (T,) float32,
    1 open, 0 closed, as recorded; gripper_command: the same, but 0 also where something wide is
    held. gripper_matrix: (T, 4, 4). gripper_joint_positions: (T, 2) metres.
    gripper_touch_forces: (T, 6). joint_positions, joint_velocities, joint_forces: (T, 7) in
    radians, rad/s, Nm. ignore_collisions: (T,) of PerAct's planner.
    keyframes: ascending indices among the frames present, the last one included, by PerAct's rule
    on `gripper_command` over all frames of the file. Those that were trimmed away are left out.
    """

    path: Path
    task: str | None
    variation: int | None
    instructions: list[str]
    frames: NDArray[np.int64]
    rgb: Mapping[str, Pictures]
    depth: Mapping[str, Pictures | None]
    intrinsics: Mapping[str, Numbers | None]
    extrinsics: Mapping[str, Numbers | None]
    gripper_pose: Numbers | None
    gripper_open: NDArray[np.float32] | None
    gripper_command: NDArray[np.float32] | None
    gripper_matrix: Numbers | None
    gripper_joint_positions: Numbers | None
    gripper_touch_forces: Numbers | None
    joint_positions: Numbers | None
    joint_velocities: Numbers | None
    joint_forces: Numbers | None
    ignore_collisions: NDArray[np.float32] | None
    keyframes: list[int]


def read_episode(path: str | PathLike[str], cameras: Sequence[str] | None = None) -> Recording:
    """Reads `.../<task>/variation<N>/episodes/episode<M>` or `.../<task>/all_variations/...`.

    cameras: which, in this order; None: every camera that has a folder of pictures, but not one of
    which the file tells no parameters while it does of others. Pictures are not decoded yet.
    Raises UserError, in one line with the path, for an episode that is missing, damaged, unsafe
    (a pickle that names anything but RLBench's and numpy's data) or incomplete (a frame that one
    camera has and another lacks, more pictures than observations), and for an unknown camera.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected an episode with {FILE}")
    told = Observations(folder)
    chosen = _cameras(folder, told, cameras)
    frames = _frames(folder, chosen, len(told))
    opened, fingers = told.gripper_open(), told.numbers("gripper_joint_positions", 2)
    command = None if opened is None else gripper_command(opened, fingers)
    velocities = told.numbers("joint_velocities", 7)
    ignored = told.numbers("ignore_collisions")

    def of_frames(name: str, *shape: int) -> Numbers | None:
        return _rows(told.numbers(name, *shape), frames)

    return Recording(
        path=folder,
        task=folder.parents[2].name if folder.parent.name == "episodes" else None,
        variation=episode_variation(folder, told),
        instructions=_instructions(folder),
        frames=frames,
        rgb={camera: Pictures(_files(folder, camera, "rgb", frames)) for camera in chosen},
        depth={camera: _depth(folder, told, camera, frames) for camera in chosen},
        intrinsics={c: _matrices(told, c, "intrinsics", FOCAL, frames) for c in chosen},
        extrinsics={c: _matrices(told, c, "extrinsics", AXES, frames) for c in chosen},
        gripper_pose=of_frames("gripper_pose", 7),
        gripper_open=_rows(opened, frames),
        gripper_command=_rows(command, frames),
        gripper_matrix=of_frames("gripper_matrix", 4, 4),
        gripper_joint_positions=_rows(fingers, frames),
        gripper_touch_forces=of_frames("gripper_touch_forces", 6),
        joint_positions=of_frames("joint_positions", 7),
        joint_velocities=_rows(velocities, frames),
        joint_forces=of_frames("joint_forces", 7),
        ignore_collisions=None if ignored is None else ignored[frames].astype(np.float32),
        keyframes=_keyframes(command, velocities, len(told), frames),
    )


def episode_variation(folder: Path, told: Observations | None = None) -> int | None:
    """Of an episode: its own file, else its folder's name, else what its observations say, which
    are read for it unless given. None where nothing says it. Raises UserError as a reader does."""
    number: int | None = optional(folder / VARIATION, lambda found: isinstance(found, int), None)
    if number is not None:
        return number
    if len(folder.parents) > 1 and (
        match := re.fullmatch(r"variation(\d+)", folder.parents[1].name)
    ):
        return int(match[1])
    return (told or Observations(folder)).variation()


def _instructions(folder: Path) -> list[str]:
    for place in (folder, *folder.parents[1:2]):
        found: list[str] = optional(place / DESCRIPTIONS, _texts, [])
        if found:
            return found
    return []


def _texts(found: Any) -> bool:
    """Whether that is a list of sentences, none of them endless."""
    return (
        isinstance(found, list)
        and len(found) <= SENTENCES
        and all(isinstance(text, str) and len(text) <= LETTERS for text in found)
    )


def _cameras(folder: Path, told: Observations, wanted: Sequence[str] | None) -> list[str]:
    names = [place.name for place in folder.iterdir() if place.is_dir()]
    found = {name.removesuffix("_rgb") for name in names if name.endswith("_rgb")}
    known = sorted(found, key=lambda c: (CAMERAS.index(c) if c in CAMERAS else len(CAMERAS), c))
    if wanted is None:
        described = told.has_parameters()
        return [camera for camera in known if told.has_parameters(camera) or not described]
    for camera in wanted:
        if camera not in found:
            raise UserError(
                f"{folder}: no camera {camera!r} (no folder {camera}_rgb); "
                f"it has {', '.join(known) or 'none'}: change the cameras asked for"
            )
    return list(wanted)


def _frames(folder: Path, cameras: Sequence[str], count: int) -> NDArray[np.int64]:
    """The frames of which there are pictures, the same ones of every camera: (T,)."""
    present: dict[Path, set[int]] = {}
    for camera in cameras:
        for kind in ("rgb", "depth"):
            if (place := folder / f"{camera}_{kind}").is_dir():
                names = (re.fullmatch(r"(\d+)\.png", file.name) for file in place.iterdir())
                present[place] = {int(match[1]) for match in names if match}
    if not present:
        return np.arange(count)
    every = set.union(*present.values())
    for place, numbers in present.items():
        if missing := every - numbers:
            raise UserError(
                f"{place / f'{min(missing)}.png'}: missing, though other cameras have the frame; "
                "fetch the episode again"
            )
    if not every:
        raise UserError(f"{folder}: no pictures in {next(iter(present)).name}; fetch it again")
    if max(every) >= count:
        raise UserError(
            f"{folder / FILE}: {count} observations, but there are pictures up to "
            f"{max(every)}.png; fetch the episode again"
        )
    return np.array(sorted(every))


def _files(folder: Path, camera: str, kind: str, frames: NDArray[np.int64]) -> list[Path]:
    return [folder / f"{camera}_{kind}" / f"{frame}.png" for frame in frames]


def _depth(
    folder: Path, told: Observations, camera: str, frames: NDArray[np.int64]
) -> Pictures | None:
    near, far = told.camera(camera, "near"), told.camera(camera, "far")
    if near is None or far is None or not (folder / f"{camera}_depth").is_dir():
        return None
    return Pictures(_files(folder, camera, "depth", frames), np.stack([near, far], 1)[frames])


def _rows(values: NDArray[Any] | None, frames: NDArray[np.int64]) -> NDArray[Any] | None:
    return None if values is None else values[frames]


def _matrices(
    told: Observations, camera: str, name: str, signs: Numbers, frames: NDArray[np.int64]
) -> Numbers | None:
    found = told.camera(camera, name, *signs.shape)
    return None if found is None else found[frames] * signs


def _keyframes(
    command: NDArray[np.float32] | None,
    velocities: Numbers | None,
    count: int,
    frames: NDArray[np.int64],
) -> list[int]:
    gripper = np.zeros(count, np.float32) if command is None else command
    found = np.flatnonzero(np.isin(frames, keyframes(gripper, velocities)))
    return sorted({*found.tolist(), len(frames) - 1})
