"""The source `rlbench`: recorded demonstrations, read from RLBench's files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError, suggestion
from mirrorlib.interfaces import DataProperties, Episode, EpisodeKey, Source, Split
from mirrorlib_rlbench.config import ROOT, SPLITS, RLBenchConfig
from mirrorlib_rlbench.conventions import HALF_ROW, PROPRIOCEPTION
from mirrorlib_rlbench.episode import Recording, episode_variation, read_episode
from mirrorlib_rlbench.stamps import episode_stamp

READER = 1
"""Raised whenever the reader returns other numbers for the same files."""
DIMENSIONS = {"pose": 8, "gripper": 3}


class RLBenchDataset(Source):
    """Demonstrations in RLBench's layout or PerAct's. Needs neither RLBench nor CoppeliaSim.

    As a sequence it is the episodes of one split: `dataset[0]`, `len(dataset)`, `for episode in
    dataset`. Folders are looked at when first needed: a root that is missing raises UserError then.
    """

    def __init__(
        self,
        root: str | Path | None,
        tasks: Sequence[str] | Mapping[str, list[int] | None] | None = None,
        split: str = "train",
        **options: Any,
    ) -> None:
        """root, tasks: as in `RLBenchConfig`, whose other fields are the options. split: of the
        sequence, train, val, test or any other folder of root."""
        place = None if root is None else str(root)
        self.config = RLBenchConfig(root=place, tasks=tasks, **options)
        self.split = cast(Split, split)
        self.properties = DataProperties(
            cameras=self.config.cameras,
            proprioception_dim=DIMENSIONS[self.config.proprioception],
            workspace=self.config.workspace,
        )
        self._found: dict[str, dict[EpisodeKey, Path]] = {}

    def __len__(self) -> int:
        return len(self.keys(self.split))

    def __getitem__(self, index: int) -> Episode:
        return self.episode(self.keys(self.split)[index])

    def __iter__(self) -> Iterator[Episode]:
        return self.episodes(self.split)

    def keys(self, split: Split) -> Sequence[EpisodeKey]:
        """The first episodes of every variation, by task, variation and number. Raises UserError
        where the root or a task that is asked for is missing."""
        count: int | None = getattr(self.config, split) if split in SPLITS else None
        taken: dict[tuple[str, int], list[EpisodeKey]] = {}
        for key in self._episodes(split):
            taken.setdefault((key.task, key.variation), []).append(key)
        return [key for keys in taken.values() for key in keys[:count]]

    def episode(self, key: EpisodeKey) -> Episode:
        """Reads one. Raises UserError where it is not as training needs it: see `read_episode`."""
        path = self._episodes(key.split).get(key)
        if path is None:
            raise UserError(f"source.root: {self._root()} has no episode {key}")
        recording = read_episode(path, self.config.cameras)
        origin = {
            "file": str(path.relative_to(self._root())),
            "split": key.split,
            "index": key.index,
            **self.fingerprint(),
        }
        return _episode(recording, key, self._proprioception(recording), origin)

    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "source": "rlbench",
            "reader": READER,
            "root": str(self._root()),
            "folders": {split: self.config.folder(split) for split in SPLITS},
            "cameras": list(self.config.cameras),
            "proprioception": self.config.proprioception,
        }

    def stamp(self, key: EpisodeKey) -> str:
        """Of pickles and pictures of the cameras that are read."""
        path = self._episodes(key.split).get(key)
        return "" if path is None else episode_stamp(path, self.config.cameras)

    def _root(self) -> Path:
        named = self.config.root or os.environ.get(ROOT)
        if not named:
            raise UserError(
                f"source.root: says no folder of demonstrations, nor does ${ROOT}; set one"
            )
        return Path(named).expanduser().resolve()

    def _episodes(self, split: str) -> dict[EpisodeKey, Path]:
        """Every episode of the tasks and variations asked for, in order. Looked up once."""
        if split not in self._found:
            root = self._root()
            _check_root(root, [self.config.folder(name) for name in (*SPLITS, split)])
            found: dict[EpisodeKey, Path] = {}
            for task in self._tasks(root, split):
                chosen = self.config.tasks[task] if isinstance(self.config.tasks, dict) else None
                places = _task_episodes(root / self.config.folder(split) / task)
                for variation, index, path in places:
                    if chosen is None or variation in chosen:
                        found[EpisodeKey(split, task, variation, index)] = path
            self._found[split] = found
        return self._found[split]

    def _tasks(self, root: Path, split: str) -> list[str]:
        folders = [root / self.config.folder(name) for name in (*SPLITS, split)]
        present = {
            place.name
            for folder in folders
            if folder.is_dir()
            for place in folder.iterdir()
            if (place / "all_variations").is_dir() or any(place.glob("variation*/episodes"))
        }
        if self.config.tasks is None:
            return sorted(present)
        for task in self.config.tasks:
            if task not in present:
                raise UserError(
                    f"source.tasks: {root} has no task {task!r}{suggestion(task, present)}; "
                    f"it has {', '.join(sorted(present)) or 'none'}"
                )
        return list(dict.fromkeys(self.config.tasks))

    def _proprioception(self, recording: Recording) -> NDArray[np.float32]:
        """(T, P). What the gripper reads, as the robot itself could tell."""
        names = PROPRIOCEPTION[self.config.proprioception]
        return np.column_stack([_present(recording, name) for name in names]).astype(np.float32)


def _check_root(root: Path, folders: Sequence[str]) -> None:
    if not root.is_dir():
        raise UserError(
            f"source.root: no folder {root}; download RLBench demonstrations (PerAct's, or record "
            "them with RLBench's tools/dataset_generator.py) and set source.root to where they are"
        )
    if not any((root / folder).is_dir() for folder in folders):
        held = sorted(place.name for place in root.iterdir() if place.is_dir())
        raise UserError(
            f"source.root: {root} holds {', '.join(held[:5]) or 'no folder'}, but none of "
            f"{', '.join(folders)}; set source.root to the folder above, or source.folders"
        )


def _task_episodes(folder: Path) -> list[tuple[int, int, Path]]:
    """Variation, number and folder of a task's episodes, in this order. RLBench's layout goes
    before PerAct's where a task has both, as they hold the same episodes."""
    found = []
    for place in folder.glob("variation*/episodes/episode*"):
        variation, index = _number(place.parents[1], "variation"), _number(place, "episode")
        if variation is not None and index is not None:
            found.append((variation, index, place))
    if found:
        return sorted(found)
    for place in folder.glob("all_variations/episodes/episode*"):
        if (index := _number(place, "episode")) is not None:
            variation = episode_variation(place)
            if variation is None:
                raise UserError(f"{place}: nothing says its variation; fetch variation_number.pkl")
            found.append((variation, index, place))
    return sorted(found)


def _number(place: Path, word: str) -> int | None:
    match = re.fullmatch(rf"{word}(\d+)", place.name)
    return int(match[1]) if match else None


def _episode(
    recording: Recording,
    key: EpisodeKey,
    proprioception: NDArray[np.float32],
    origin: Mapping[str, Any],
) -> Episode:
    """In mirrorlib's conventions."""
    if not recording.instructions:
        raise UserError(
            f"{recording.path}: no instruction; fetch its variation_descriptions.pkl, or leave "
            f"variation {key.variation} out of source.tasks"
        )
    ignored = recording.ignore_collisions
    intrinsics = _of_cameras(recording, "intrinsics")
    return Episode(
        task=key.task,
        variation=key.variation,
        descriptions=recording.instructions,
        rgb=cast("Mapping[str, NDArray[np.uint8]]", recording.rgb),
        depth=_of_cameras(recording, "depth"),
        intrinsics={camera: matrices + HALF_ROW for camera, matrices in intrinsics.items()},
        extrinsics=_of_cameras(recording, "extrinsics"),
        gripper_pose=_present(recording, "gripper_pose"),
        gripper_open=_present(recording, "gripper_command"),
        proprioception=proprioception,
        ignore_collisions=np.ones(len(recording.frames), np.float32)
        if ignored is None
        else ignored,
        keyframes=recording.keyframes,
        success=True,
        origin=origin,
    )


def _of_cameras(recording: Recording, name: str) -> dict[str, Any]:
    values: Mapping[str, Any] = getattr(recording, name)
    for camera, value in values.items():
        if value is None:
            raise UserError(
                f"{recording.path}: no {name} of camera {camera}, which the executor needs "
                "(2019's recordings lack it); record anew, or leave it out of source.cameras"
            )
    return dict(values)


def _present(recording: Recording, name: str) -> NDArray[Any]:
    value: NDArray[Any] | None = getattr(recording, name)
    if value is None:
        raise UserError(
            f"{recording.path}: {name} was not recorded; record anew with it in the "
            "ObservationConfig"
            + ", or set source.proprioception to pose"
            * name.endswith("positions")
        )
    return value


def build_dataset(config: RLBenchConfig) -> RLBenchDataset:
    """The source that a recipe asks for."""
    return RLBenchDataset(**dict(config))
