"""What became of the scenes that the executor acted in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError
from mirrorlib.files import write_whole, writing
from mirrorlib.interfaces import EpisodeKey
from mirrorlib.randomness import scene_seed

OUTCOMES = "rollouts.json"


@dataclass(frozen=True, order=True)
class Scene:
    """One scene to be acted in, the `index`-th of a variation within a split."""

    task: str
    variation: int
    split: str
    index: int

    @property
    def seed(self) -> int:
        """The seed under which the source records this very scene."""
        return scene_seed(self.task, self.variation, self.split, self.index)

    @property
    def key(self) -> EpisodeKey:
        """The source's demonstration in this very scene."""
        return EpisodeKey(self.split, self.task, self.variation, self.index)

    def __str__(self) -> str:
        return f"{self.task}, variation {self.variation}, {self.split} scene {self.index}"


@dataclass(frozen=True)
class Rollout:
    """What became of a scene. errors: motions that could not be executed; error_kinds: how many of
    them are of each kind that the simulator names. frames: what the simulator's video camera saw,
    (T, H, W, 3) uint8, empty unless asked for. retried: a simulator process failed in the scene,
    which was then begun anew. lost: why that one failed, too; the scene does not count as solved.
    """

    scene: Scene
    instruction: str
    success: bool
    actions: int
    errors: int
    frames: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    error_kinds: Mapping[str, int] = field(default_factory=dict)
    retried: bool = False
    lost: str | None = None


def write_outcomes(rollouts: Sequence[Rollout], folder: Path) -> None:
    """Leaves what became of every scene in the folder's `rollouts.json`."""
    rows = [
        asdict(r.scene)
        | {"instruction": r.instruction, "success": bool(r.success), "actions": r.actions}
        | {"errors": r.errors, "error_kinds": dict(r.error_kinds)}
        | {"retried": r.retried, "lost": r.lost, "filmed": len(r.frames) > 0}
        for r in rollouts
    ]
    with writing(folder / OUTCOMES):
        write_whole(folder / OUTCOMES, json.dumps(rows, indent=0))


def read_outcomes(folder: Path) -> dict[Scene, bool]:
    """Whether each scene was solved, as `write_outcomes` left it, without those that were lost;
    empty where nothing was. Raises UserError where the file is damaged."""
    file = folder / OUTCOMES
    names = [field.name for field in fields(Scene)]
    try:
        rows = json.loads(file.read_text()) if file.exists() else []
        return {
            Scene(**{name: row[name] for name in names}): row["success"]
            for row in rows
            if row.get("lost") is None
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is no list of rollouts; evaluate the run again") from error
