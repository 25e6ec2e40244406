"""The representations of episodes, frozen: computed once, kept in a file, read by whoever asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from mirrorlib.data.batches import (
    collate_clips,
    collate_steps,
    label_episodes,
    middle_clip,
)
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Executor, Observer, Steps
from mirrorlib.training.joint import Joint

FILE = "representations.safetensors"
"""In the folder of every run."""


@dataclass(frozen=True)
class Represented:
    """E episodes. u: (E, D_u), e: (E, D_e) float32. zu, ze: (E, Z) through the trained
    projectors, None where there are none. labels: (E, 3) int64 = episode, instruction, task.
    names: E, such as `test/turn_tap/0/3`. instructions, tasks: E texts each."""

    u: Tensor
    e: Tensor
    labels: Tensor
    names: list[str]
    instructions: list[str]
    tasks: list[str]
    zu: Tensor | None = None
    ze: Tensor | None = None


Alter = Callable[[Steps], Steps]


def represent(
    joint: Joint,
    episodes: Sequence[StoredEpisode],
    *,
    clip_frames: int,
    camera: str,
    device: torch.device,
) -> Represented:
    """An episode is its clip's u and the mean of e over its keyframes, as float32 on the CPU."""
    u = observe(joint.observer, episodes, clip_frames=clip_frames, camera=camera, device=device)
    e = execute(joint.executor, episodes, device=device)
    zu = ze = None
    if joint.objective.uses_projectors:
        training = joint.training
        joint.eval()
        with torch.no_grad():
            zu, ze = (z.float().cpu() for z in joint.project(u.to(device), e.to(device)))
        joint.train(training)
    return Represented(
        u,
        e,
        torch.from_numpy(label_episodes(episodes)),
        [episode.name for episode in episodes],
        [episode.instruction for episode in episodes],
        [episode.task for episode in episodes],
        zu,
        ze,
    )


@torch.no_grad()
def observe(
    observer: Observer,
    episodes: Sequence[StoredEpisode],
    *,
    clip_frames: int,
    camera: str,
    device: torch.device,
    title: str | None = None,
) -> Tensor:
    """u of each episode's clip, without augmentation: (E, D_u) float32 on the CPU. title: of a
    progress bar."""
    us = []
    with _frozen(observer):
        for episode in tqdm(episodes, title, unit="ep", disable=title is None):
            clip = middle_clip(episode, clip_frames, camera)
            clips = collate_clips([clip], torch.zeros(1, dtype=torch.int64))
            us.append(observer(clips.to(device)).representation.float().cpu())
    return torch.cat(us)


@torch.no_grad()
def execute(
    executor: Executor,
    episodes: Sequence[StoredEpisode],
    *,
    device: torch.device,
    alter: Alter | None = None,
    title: str | None = None,
) -> Tensor:
    """The mean of e over each episode's keyframes: (E, D_e) float32 on the CPU. alter: what the
    executor is fed instead; None: what it is. title: of a progress bar."""
    es = []
    with _frozen(executor):
        for episode in tqdm(episodes, title, unit="ep", disable=title is None):
            steps = every_step(episode)
            steps = steps if alter is None else alter(steps)
            es.append(executor(steps.to(device)).representation.float().mean(0, keepdim=True).cpu())
    return torch.cat(es)


def every_step(episode: StoredEpisode) -> Steps:
    """All steps of an episode, with the instruction's canonical wording."""
    rows = [(episode, i, episode.descriptions[0]) for i in range(episode.steps)]
    return collate_steps(rows, torch.zeros(episode.steps, dtype=torch.int64))


@contextmanager
def _frozen(encoder: nn.Module) -> Iterator[None]:
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)


def save_representations(path: Path, splits: Mapping[str, Represented]) -> None:
    """One file with tensors `<split>/u`, `/e`, `/labels` and, where there are, `/zu`, `/ze`; names,
    instructions and tasks as JSON in its metadata, under the split."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for split, r in splits.items():
        named = {"u": r.u, "e": r.e, "labels": r.labels, "zu": r.zu, "ze": r.ze}
        tensors |= {f"{split}/{k}": v.contiguous() for k, v in named.items() if v is not None}
        metadata[split] = json.dumps(
            {"names": r.names, "instructions": r.instructions, "tasks": r.tasks}
        )
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_representations(path: Path) -> dict[str, Represented]:
    """What `save_representations` wrote, by split. Raises UserError where it is no such file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: holds no representations ({error})") from error
    found = {}
    try:
        for split, text in sorted(metadata.items(), reverse=True):  # safetensors keeps no order
            u, e, labels = (named[f"{split}/{name}"] for name in ("u", "e", "labels"))
            zu, ze = (named.get(f"{split}/{name}") for name in ("zu", "ze"))
            texts = json.loads(text)
            found[split] = Represented(u.float(), e.float(), labels, **texts, zu=zu, ze=ze)
    except KeyError as error:
        raise UserError(f"{path}: holds no representations ({error} is missing)") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: holds no representations ({split}: {error})") from error
    for split, r in found.items():
        columns = (r.u, r.e, r.labels, r.names, r.instructions, r.tasks)
        if r.u.ndim != 2 or r.e.ndim != 2 or len({len(column) for column in columns}) > 1:
            raise UserError(
                f"{path}: {split}/u and {split}/e must be (N, D), with as many labels, names, "
                "instructions and tasks as they have rows"
            )
    return found
