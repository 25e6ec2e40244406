"""Episodes on disk, as training reads them: one safetensors file an episode.

A file keeps what a batch may ask for and no more: the observation before every keyframe, the
action it led to, and evenly spaced frames of the clip cameras. Files are memory-mapped, so a
batch reads only its own steps and clips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode

FORMAT = 1
CLIP_OVERSAMPLING = 4
"""Frames kept for each frame of a clip, so that training may vary which it sees."""


@dataclass(frozen=True)
class Layout:
    """Which parts of an episode are kept."""

    clip_frames: int
    clip_cameras: tuple[str, ...]
    step_cameras: tuple[str, ...]


def write_episode(path: Path, episode: Episode, layout: Layout) -> None:
    """Write beside `path`, flush, rename: a reader never sees half a file."""
    missing = sorted({*layout.clip_cameras, *layout.step_cameras} - set(episode.rgb))
    if missing:
        raise UserError(
            f"the source has no camera {missing[0]!r}; its cameras are {', '.join(episode.rgb)}: "
            "change data.clip_cameras or data.step_cameras"
        )
    tensors = _step_tensors(episode, layout.step_cameras)
    length = len(episode.gripper_pose)
    kept = min(length, CLIP_OVERSAMPLING * layout.clip_frames)
    rows = np.linspace(0, length - 1, kept).round().astype(int)
    for camera in layout.clip_cameras:
        tensors[f"clip/{camera}"] = episode.rgb[camera][rows].transpose(0, 3, 1, 2)
    header = {
        "task": episode.task,
        "variation": episode.variation,
        "descriptions": list(episode.descriptions),
        "origin": dict(episode.origin),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # safetensors writes an array's memory as it lies, whatever its strides.
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        save_file(tensors, partial, metadata={"episode": json.dumps(header)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _step_tensors(episode: Episode, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Observations before each keyframe (S, V, ...) and the actions (S, 9) they led to."""
    targets = np.asarray(episode.keyframes)
    before = np.concatenate([[0], targets[:-1]])
    depth = np.stack([episode.depth[c][before] for c in cameras], 1)
    depth = clean_depth(depth)
    scale = max(float(depth.max()), 1e-6) / np.iinfo(np.uint16).max
    action = np.concatenate(
        [
            episode.gripper_pose[targets],
            episode.gripper_open[targets, None],
            episode.ignore_collisions[targets, None],
        ],
        axis=1,
    )
    return {
        "rgb": np.stack([episode.rgb[c][before].transpose(0, 3, 1, 2) for c in cameras], 1),
        "depth": (depth / scale + 0.5).astype(np.uint16),
        "depth_scale": np.array([scale], dtype=np.float32),
        "intrinsics": _stack(episode.intrinsics, cameras, before),
        "extrinsics": _stack(episode.extrinsics, cameras, before),
        "proprioception": episode.proprioception[before].astype(np.float32),
        "action": action.astype(np.float32),
    }


def _stack(matrices: Any, cameras: Sequence[str], rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([matrices[c][rows] for c in cameras], 1).astype(np.float32)


class StoredEpisode:
    """One episode's file, read as asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "numpy") as file:
                header = json.loads(file.metadata()["episode"])
                self.steps = int(file.get_slice("action").get_shape()[0])
                names: list[str] = list(file.keys())
                clips = sorted(name for name in names if name.startswith("clip/"))
                self.clip_cameras = [name.removeprefix("clip/") for name in clips]
                self.kept = int(file.get_slice(clips[0]).get_shape()[0])
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a whole recorded episode ({error}); delete it and run again"
            ) from error
        self.task: str = header["task"]
        self.variation: int = header["variation"]
        self.descriptions: list[str] = header["descriptions"]
        self.origin: dict[str, Any] = header["origin"]

    @property
    def name(self) -> str:
        """split/task/variation/index, as its key is written."""
        variation, index = self.path.stem.split("-")
        return "/".join((*self.path.parts[-3:-1], variation, index))

    @cached_property
    def instruction(self) -> str:
        """The key of a positive pair: the first description, normalised."""
        return normalise(self.descriptions[0])

    def clip(self, camera: str, rows: Iterable[int]) -> NDArray[np.uint8]:
        """The frames (T, 3, H, W) of a camera that are asked for, of the `kept` ones."""
        with safe_open(self.path, "numpy") as file:
            frames = file.get_slice(f"clip/{camera}")
            return np.stack([frames[int(row)] for row in rows])

    def step(self, index: int) -> dict[str, NDArray[Any]]:
        """The observation before keyframe `index` and the action (9,) that led to it."""
        with safe_open(self.path, "numpy") as file:
            step = {
                name: file.get_slice(name)[index]
                for name in (
                    "rgb", "depth", "intrinsics", "extrinsics", "proprioception", "action",
                )
            }  # fmt: skip
            scale = file.get_tensor("depth_scale")[0]
        step["depth"] = step["depth"].astype(np.float32) * scale
        return step


def clean_depth(depth: NDArray[Any]) -> NDArray[np.float32]:
    """float32 metres; 0, at the camera itself, where nothing was measured."""
    return np.nan_to_num(depth, posinf=0.0).clip(min=0).astype(np.float32)


def normalise(text: str) -> str:
    """Lower case, single spaces, no closing stop: the key under which instructions are equal."""
    return " ".join(text.lower().split()).rstrip(".")
