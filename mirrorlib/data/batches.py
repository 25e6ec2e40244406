"""Batches of clips and steps, read from stored episodes by plan."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mirrorlib.data.pairing import BatchPlan
from mirrorlib.data.store import StoredEpisode, clean_depth
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Clips, Observation, Observations, Steps


@dataclass(frozen=True)
class Batch:
    """B rows. labels: (B, 3) int64 = episode, instruction, task of the clip's episode.

    aligned: (B,) bool, rows that take part in the alignment term. Row i of `clips` is paired
    with row i of `steps`.
    """

    clips: Clips
    steps: Steps
    labels: Tensor
    aligned: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.clips.to(device),
            self.steps.to(device),
            self.labels.to(device, non_blocking=True),
            self.aligned.to(device, non_blocking=True),
        )

    def __len__(self) -> int:
        return len(self.labels)


def label_episodes(episodes: Sequence[StoredEpisode]) -> NDArray[np.int64]:
    """(E, 3): equal numbers mean the same episode, instruction or task."""
    instructions = sorted({e.instruction for e in episodes})
    tasks = sorted({e.task for e in episodes})
    rows = [
        (i, instructions.index(e.instruction), tasks.index(e.task)) for i, e in enumerate(episodes)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


class PlannedBatches(Dataset[Batch]):
    """The rows of one process of every planned batch.

    Raises UserError where episodes have pictures of different sizes.
    """

    def __init__(
        self,
        episodes: Sequence[StoredEpisode],
        plans: Sequence[BatchPlan],
        clip_frames: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.episodes, self.plans, self.clip_frames = episodes, plans, clip_frames
        self.rank, self.size = rank, size
        self.labels = label_episodes(episodes)
        _check_sizes(episodes)

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> Batch:
        plan = self.plans[index].part(self.rank, self.size)
        clips = [
            _random_clip(self.episodes[e], self.clip_frames, np.random.default_rng(seed))
            for e, seed in zip(plan.clips, plan.clip_seeds, strict=True)
        ]
        steps = [
            _random_step(self.episodes[e], np.random.default_rng(seed))
            for e, seed in zip(plan.steps, plan.step_seeds, strict=True)
        ]
        return Batch(
            collate_clips(clips, torch.from_numpy(plan.clip_seeds.copy())),
            collate_steps(steps, torch.from_numpy(plan.step_seeds.copy())),
            torch.from_numpy(self.labels[plan.clips]),
            torch.from_numpy(plan.aligned.copy()),
        )


def _check_sizes(episodes: Sequence[StoredEpisode]) -> None:
    first: dict[str, tuple[StoredEpisode, tuple[int, ...]]] = {}
    for episode in episodes:
        told = [("clips", episode.frame_shape(camera)) for camera in episode.clip_cameras]
        told += [(f"steps' {name}", shape) for name, (shape, _) in episode.step_shapes().items()]
        for name, shape in told:
            other, expected = first.setdefault(name, (episode, shape))
            if shape != expected:
                raise UserError(
                    f"{episode.path}: {name} of shape {shape}, but {expected} in {other.path}; "
                    "let all episodes have pictures of one size"
                )


class _Told(Dataset[Batch | UserError]):
    """Batches, or why one cannot be read: what a process raises reaches another as a traceback."""

    def __init__(self, batches: PlannedBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch | UserError:
        try:
            return self.batches[index]
        except UserError as error:
            return error


def load(batches: PlannedBatches, start: int, workers: int) -> Iterator[Batch]:
    """Batches from the `start`-th on, read ahead by `workers` processes (0: in this one). Raises
    UserError where an episode cannot be read any more."""
    loader: DataLoader[Any] = DataLoader(
        _Told(batches),
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
    )
    return map(_read, iter(loader))


def _read(told: Batch | UserError) -> Batch:
    if isinstance(told, UserError):
        raise told
    return told


def _leave_signals_to_parent(worker: int) -> None:
    """A terminal or a cluster signals every process, but only the one that trains should answer:
    it still needs the batches of the step it is in."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


Clip = tuple[StoredEpisode, str, list[int], str]
"""Episode, camera, which T of its kept frames, and wording."""
Step = tuple[StoredEpisode, int, str]
"""Episode, index of its keyframe, and wording."""


def _random_clip(episode: StoredEpisode, frames: int, rng: np.random.Generator) -> Clip:
    """One frame drawn from each of T equal segments of the episode."""
    camera = episode.clip_cameras[rng.integers(len(episode.clip_cameras))]
    edges = np.linspace(0, episode.kept, frames + 1)
    rows = (edges[:-1] + rng.random(frames) * (edges[1:] - edges[:-1])).astype(int)
    return episode, camera, rows.tolist(), _wording(episode, rng)


def middle_clip(episode: StoredEpisode, frames: int, camera: str) -> Clip:
    """Frames at the middles of T equal segments, with the instruction's canonical wording."""
    rows = ((np.arange(frames) + 0.5) * episode.kept / frames).astype(int)
    return episode, camera, rows.tolist(), episode.descriptions[0]


def _random_step(episode: StoredEpisode, rng: np.random.Generator) -> Step:
    return episode, int(rng.integers(episode.steps)), _wording(episode, rng)


def _wording(episode: StoredEpisode, rng: np.random.Generator) -> str:
    return episode.descriptions[rng.integers(len(episode.descriptions))]


def collate_clips(clips: Sequence[Clip], seeds: Tensor) -> Clips:
    """Reads B clips. Raises UserError where their pictures differ in size."""
    episode, camera, rows, _ = clips[0]
    frames = np.empty((len(clips), len(rows), *episode.frame_shape(camera)), np.uint8)
    for target, (episode, camera, rows, _) in zip(frames, clips, strict=True):
        episode.read_clip(camera, rows, target)
    return Clips(
        frames=torch.from_numpy(frames),
        camera=[camera for _, camera, _, _ in clips],
        instruction=[episode.instruction for episode, _, _, _ in clips],
        text=[text for _, _, _, text in clips],
        seed=seeds,
    )


def collate_steps(steps: Sequence[Step], seeds: Tensor) -> Steps:
    """Reads B steps. Raises UserError where their pictures differ in size."""
    shapes = steps[0][0].step_shapes()
    arrays = {name: np.empty((len(steps), *shape), of) for name, (shape, of) in shapes.items()}
    for row, (episode, index, _) in enumerate(steps):
        episode.read_step(index, {name: array[row] for name, array in arrays.items()})
    return Steps(
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
        instruction=[episode.instruction for episode, _, _ in steps],
        text=[text for _, _, text in steps],
        seed=seeds,
    )


def collate_observations(
    observations: Sequence[Observation], cameras: Sequence[str]
) -> Observations:
    """Stacks what B simulators show, in the order of `cameras`. Raises UserError where one does
    not show a camera."""
    for camera in cameras:
        if any(camera not in o.rgb for o in observations):
            raise UserError(
                f"the simulator shows {', '.join(observations[0].rgb)}, but the executor was "
                f"trained with {camera}: give evaluation.simulator the same cameras"
            )

    def stack(name: str) -> NDArray[Any]:
        return np.stack([[getattr(o, name)[c] for c in cameras] for o in observations])

    rgb = torch.from_numpy(stack("rgb")).permute(0, 1, 4, 2, 3).contiguous()
    return Observations(
        rgb=rgb,
        depth=torch.from_numpy(clean_depth(stack("depth"))),
        intrinsics=torch.from_numpy(stack("intrinsics").astype(np.float32)),
        extrinsics=torch.from_numpy(stack("extrinsics").astype(np.float32)),
        proprioception=torch.from_numpy(
            np.stack([o.proprioception for o in observations]).astype(np.float32)
        ),
    )
