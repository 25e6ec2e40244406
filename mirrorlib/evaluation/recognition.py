"""Action recognition: a held-out clip is matched against the texts of all instructions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from mirrorlib.data.batches import collate_clips, middle_clip
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.files import write_whole, writing
from mirrorlib.interfaces import Observer

RECOGNITION = "recognition.json"
"""In the folder of every run."""


@dataclass(frozen=True)
class Recognition:
    """instructions: K. tasks: the task of each. truth, predicted: (E,) indices into them.
    within_task: (E,) the best among the instructions of the episode's own task."""

    instructions: list[str]
    tasks: list[str]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    within_task: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Top-1 over all K instructions."""
        return float((self.predicted == self.truth).mean())

    @property
    def accuracy_within_task(self) -> float:
        """Top-1 over the instructions of the episode's task alone."""
        return float((self.within_task == self.truth).mean())

    @property
    def chance(self) -> float:
        return 1 / len(self.instructions)

    @property
    def chance_within_task(self) -> float:
        """What guessing among the instructions of the episode's task would score."""
        return float(np.mean([1 / self.tasks.count(self.tasks[k]) for k in self.truth]))

    def confusion(self) -> NDArray[np.int64]:
        """(K, K) counts, truth by prediction."""
        counts = np.zeros((len(self.instructions),) * 2, dtype=np.int64)
        np.add.at(counts, (self.truth, self.predicted), 1)
        return counts


def recognise(
    observer: Observer,
    episodes: Sequence[StoredEpisode],
    instructions: dict[str, str],
    *,
    templates: Sequence[str],
    clip_frames: int,
    camera: str,
    device: torch.device,
    batch_size: int = 32,
) -> Recognition:
    """Classifies each episode's clip by its mean cosine with the templated instructions.

    instructions: text -> task, every distinct instruction of the source. templates: each holds
    "{}" for the instruction.
    """
    names = sorted(instructions, key=lambda text: (instructions[text], text))
    tasks = [instructions[name] for name in names]
    observer.eval()
    with torch.no_grad():
        texts = [template.replace("{}", name) for template in templates for name in names]
        text = normalize(observer.encode_text(texts).float(), dim=-1)
        text = text.view(len(templates), len(names), -1).mean(0)
        rows = []
        for start in range(0, len(episodes), batch_size):
            clips = [middle_clip(e, clip_frames, camera) for e in episodes[start:][:batch_size]]
            seeds = torch.zeros(len(clips), dtype=torch.int64)
            frames = collate_clips(clips, seeds).frames.to(device)
            rows.append(normalize(observer.encode_video(frames).float(), dim=-1) @ text.T)
    scores = torch.cat(rows).cpu().numpy()
    truth = np.array([names.index(e.instruction) for e in episodes], dtype=np.int64)
    same_task = np.array([[t == e.task for t in tasks] for e in episodes])
    return Recognition(
        names,
        tasks,
        truth,
        scores.argmax(1),
        np.where(same_task, scores, -np.inf).argmax(1),
    )


def write_recognition(recognition: Recognition, path: Path) -> None:
    """Leaves every clip's answer in a JSON file. Raises UserError where it cannot be written."""
    content = {
        "instructions": recognition.instructions,
        "tasks": recognition.tasks,
        "truth": recognition.truth.tolist(),
        "predicted": recognition.predicted.tolist(),
        "within_task": recognition.within_task.tolist(),
    }
    with writing(path):
        write_whole(path, json.dumps(content))


def read_recognition(path: Path) -> Recognition:
    """What `write_recognition` left. Raises UserError where it is no such file."""
    try:
        content = json.loads(path.read_text())
        answers = {
            name: np.array(content[name], dtype=np.int64)
            for name in ("truth", "predicted", "within_task")
        }
        return Recognition(content["instructions"], content["tasks"], **answers)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: holds no recognition ({error}); evaluate the run again"
        ) from error
