"""Episodes on disk, as training reads them: one safetensors file an episode.

A file keeps what a batch may ask for and no more: the observation before every keyframe, the
action it led to, and evenly spaced frames of the clip cameras. A batch reads only its own steps
and clips, straight to where they are wanted, and leaves no file open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from mirrorlib.data.checksum import (
    UNSEALED,
    identity,
    read_header,
    reason,
    sealed,
    stored_name,
)
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode

FORMAT = 2
CLIP_OVERSAMPLING = 4
"""Frames kept for each frame of a clip, so that training may vary which it sees."""
STEP = ("rgb", "depth", "intrinsics", "extrinsics", "proprioception", "action")
DTYPES: Mapping[str, type[np.generic]] = {"U8": np.uint8, "U16": np.uint16, "F32": np.float32}


class RecordingError(UserError):
    """What no episode is to blame for: a layout that does not fit the source, a full disk."""


@dataclass(frozen=True)
class Layout:
    """Which parts of an episode are kept."""

    clip_frames: int
    clip_cameras: tuple[str, ...]
    step_cameras: tuple[str, ...]


def write_episode(path: Path, episode: Episode, layout: Layout, stamp: str = "") -> None:
    """Write beside `path`, flush, rename: a reader never sees half a file. stamp: of what the
    episode was read from, see `Source.stamp`. Raises RecordingError where cameras are missing or
    differ in size, or the file cannot be written; and what reading the episode's pictures does."""
    missing = sorted({*layout.clip_cameras, *layout.step_cameras} - set(episode.rgb))
    if missing:
        raise RecordingError(
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
        **UNSEALED,
        "task": episode.task,
        "variation": episode.variation,
        "descriptions": list(episode.descriptions),
        "origin": dict(episode.origin),
        "name": stored_name(path),
        "stamp": stamp,
    }
    # safetensors writes an array's memory as it lies, whatever its strides.
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = sealed(save(tensors, {"episode": json.dumps(header)}))
    with room_for(path):
        _write(path, content)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Within the block, which writes to `path`, an OSError is a RecordingError."""
    try:
        yield
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({reason(error)}); make room and run again: what is "
            "recorded is kept"
        ) from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _step_tensors(episode: Episode, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Observations before each keyframe (S, V, ...) and the actions (S, 9) they led to."""
    sizes = {camera: episode.rgb[camera].shape[1:3] for camera in cameras}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{c} {width} x {height}" for c, (height, width) in sizes.items())
        raise RecordingError(
            f"{episode.task}, variation {episode.variation}: cameras of different sizes ({told}); "
            "choose those of one size with data.step_cameras"
        )
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


class _Array(NamedTuple):
    """Where an array lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class StoredEpisode:
    """One episode's file, read as asked."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where the file is not whole; its checksum is not looked at."""
        self.path = path
        try:
            header = self._open()
            clips = sorted(name for name in self._arrays if name.startswith("clip/"))
            self.clip_cameras = [name.removeprefix("clip/") for name in clips]
            self.steps, self.kept = (self._arrays[n].shape[0] for n in ("action", clips[0]))
            self.task: str = header["task"]
            self.variation: int = header["variation"]
            self.descriptions: list[str] = header["descriptions"]
            self.origin: dict[str, Any] = header["origin"]
        except (AttributeError, OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a whole recorded episode ({reason(error)}); run `mirrorlib record "
                "RECIPE --rebuild`"
            ) from error

    def _open(self) -> Any:
        """Learns where the arrays lie. Returns what the header tells of the episode."""
        with self.path.open("rb", buffering=0) as file:
            self._identity = identity(file.fileno())
            text = read_header(file)
            size = os.fstat(file.fileno()).st_size - 8 - len(text)
        header = json.loads(text)
        told = header.pop("__metadata__")
        if size != max(array["data_offsets"][1] for array in header.values()):
            raise ValueError("it is cut short")
        self._arrays = {
            name: _Array(
                np.dtype(DTYPES[array["dtype"]]),
                tuple(array["shape"]),
                8 + len(text) + array["data_offsets"][0],
            )
            for name, array in header.items()
        }
        return json.loads(told["episode"])

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
        rows = list(rows)
        frames = np.empty((len(rows), *self.frame_shape(camera)), np.uint8)
        self.read_clip(camera, rows, frames)
        return frames

    def step(self, index: int) -> dict[str, NDArray[Any]]:
        """The observation before keyframe `index` and the action (9,) that led to it."""
        step = {name: np.empty(shape, dtype) for name, (shape, dtype) in self.step_shapes().items()}
        self.read_step(index, step)
        return step

    def frame_shape(self, camera: str) -> tuple[int, ...]:
        """(3, H, W) of the camera's clips."""
        return self._arrays[f"clip/{camera}"].shape[1:]

    def step_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of every part of a step."""
        arrays = {name: self._arrays[name] for name in STEP}
        shapes = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
        return shapes | {"depth": (arrays["depth"].shape[1:], np.dtype(np.float32))}

    def read_clip(self, camera: str, rows: Iterable[int], frames: NDArray[np.uint8]) -> None:
        """As `clip`, into `frames`, contiguous. Raises UserError where its shape is another."""
        with self._reopened() as file:
            for place, row in enumerate(rows):
                self._read(file, f"clip/{camera}", row, frames[place])

    def read_step(self, index: int, step: Mapping[str, NDArray[Any]]) -> None:
        """As `step`, into the arrays given, contiguous. Raises UserError where their shapes are
        others."""
        depth = np.empty(step["depth"].shape, np.uint16)
        scale = np.empty((), np.float32)
        with self._reopened() as file:
            for name in STEP:
                self._read(file, name, index, depth if name == "depth" else step[name])
            self._read(file, "depth_scale", 0, scale)
        np.multiply(depth, scale, out=step["depth"], dtype=np.float32)

    def _reopened(self) -> BinaryIO:
        """Raises UserError where another file, of other offsets, has taken its place."""
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise self._replaced() from error
        if identity(file.fileno()) != self._identity:
            file.close()
            raise self._replaced()
        return file

    def _replaced(self) -> UserError:
        return UserError(
            f"{self.path}: was recorded anew meanwhile; begin the run again (train.resume=true "
            "goes on)"
        )

    def _read(self, file: BinaryIO, name: str, row: int, target: NDArray[Any]) -> None:
        array = self._arrays[name]
        if not -array.shape[0] <= row < array.shape[0]:
            raise IndexError(f"{self.path}: {name} has {array.shape[0]} rows, none of number {row}")
        if target.shape != array.shape[1:]:
            raise UserError(
                f"{self.path}: {name} of shape {array.shape[1:]} beside others of "
                f"{target.shape}; let all episodes have pictures of one size"
            )
        assert target.dtype == array.dtype and target.flags.c_contiguous
        offset = array.offset + row % array.shape[0] * target.nbytes
        if os.preadv(file.fileno(), [target.data], offset) != target.nbytes:
            raise UserError(f"{self.path}: cut short while it was read; run again")


def clean_depth(depth: NDArray[Any]) -> NDArray[np.float32]:
    """float32 metres; 0, at the camera itself, where nothing was measured."""
    return np.nan_to_num(depth, posinf=0.0).clip(min=0).astype(np.float32)


def normalise(text: str) -> str:
    """Lower case, single spaces, no closing stop: the key under which instructions are equal."""
    return " ".join(text.lower().split()).rstrip(".")
