"""All pictures of a run, from the files in its folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from mirrorlib.errors import UserError
from mirrorlib.evaluation.recognition import RECOGNITION, Recognition, read_recognition
from mirrorlib.evaluation.representations import FILE, Represented, load_representations
from mirrorlib.evaluation.rollouts import OUTCOMES
from mirrorlib.reporting.figures.bars import success_bars
from mirrorlib.reporting.figures.contact_sheets import contact_sheet
from mirrorlib.reporting.figures.frames import Frames
from mirrorlib.reporting.figures.maps import pca, tsne
from mirrorlib.reporting.figures.matrices import confusion_matrix, similarity_matrix
from mirrorlib.reporting.figures.retrieval import Way, retrieval_grid
from mirrorlib.reporting.figures.style import save
from mirrorlib.reporting.videos import read_film

DPI = 200


@dataclass
class Drawn:
    """files: the pictures. left_out: reason -> pictures that the run gives no ground for.
    failed: picture -> the error that ended it."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def draw_run(folder: Path, out: Path | None = None, kind: str = "png", dpi: int = DPI) -> Drawn:
    """Draws every picture of a run's folder into `out`, by default its `figures`.

    kind: png, pdf or svg. A picture that fails is told on stderr with its error, one line, and
    the others are drawn: pictures must not cost a run its results. Raises nothing for that, so a
    caller that cares reads `failed`.
    """
    drawn = Drawn()
    for name, draw in tqdm(_pictures(folder).items(), desc="drawing", unit="picture", leave=False):
        path = (out or folder / "figures") / f"{name}.{kind}"
        try:
            save(draw(), path, dpi)
        except UserError as reason:
            drawn.left_out.setdefault(" ".join(reason.lines), []).append(name)
        except Exception as error:
            drawn.failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            drawn.files.append(path)
    for why, names in drawn.left_out.items():
        print(f"mirrorlib: pictures left out: {', '.join(names)}: {why}", file=sys.stderr)
    for name, what in drawn.failed.items():
        print(f"mirrorlib: picture {name} could not be drawn: {what}", file=sys.stderr)
    return drawn


def draw_command(run: str, out: str | None, kind: str, dpi: int) -> None:
    """`mirrorlib figures`: draws, and says where. Raises UserError where the folder is no run's,
    and where a picture failed."""
    folder = Path(run)
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: is no run's folder: it holds no recipe.yaml")
    if dpi < 1:
        raise UserError(f"--dpi is {dpi}, but must be at least 1")
    drawn = draw_run(folder, Path(out) if out else None, kind, dpi)
    print("\n".join(str(file) for file in drawn.files))
    if drawn.failed:
        raise UserError(f"{folder}: {len(drawn.failed)} pictures could not be drawn, see above")


def _pictures(folder: Path) -> dict[str, Callable[[], Figure]]:
    """Every picture that a run may have: its name -> what draws it, which raises UserError where
    the run lacks what it shows."""
    run = _Run(folder)

    def retrieval(way: Way) -> Figure:
        return retrieval_grid(run.shared, run.frames, way)

    return {
        "tsne": lambda: tsne(run.represented),
        "pca": lambda: pca(run.represented),
        "similarity": lambda: similarity_matrix(run.shared),
        "retrieval_see_to_do": partial(retrieval, "see_to_do"),
        "retrieval_do_to_see": partial(retrieval, "do_to_see"),
        "confusion_matrix": lambda: confusion_matrix(run.recognition),
        "success": lambda: success_bars(run.successes),
        **{
            f"rollouts/{video.stem}": partial(run.sheet, video)
            for video in sorted((folder / "videos").glob("[!.]*.mp4"))
        },
    }


@dataclass(frozen=True)
class _Run:
    """What a run's folder holds, read once, when asked for."""

    folder: Path

    @cached_property
    def represented(self) -> Represented:
        """The held-out episodes."""
        splits = load_representations(self._file(FILE))
        (held_out,) = (split for split in splits if split != "train")
        return splits[held_out]

    @property
    def shared(self) -> Represented:
        """The held-out episodes where a shared space was trained."""
        if self.represented.zu is None:
            raise UserError("its objective trains no shared space")
        return self.represented

    @cached_property
    def recognition(self) -> Recognition:
        return read_recognition(self._file(RECOGNITION))

    @cached_property
    def frames(self) -> Frames:
        return Frames.of_run(self.folder)

    @cached_property
    def rollouts(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self._file(OUTCOMES).read_text())
        return rows

    @property
    def successes(self) -> dict[str, tuple[int, int]]:
        """task -> how many rollouts succeeded, and of how many."""
        by_task: dict[str, list[bool]] = {}
        for row in self.rollouts:
            by_task.setdefault(row["task"], []).append(row["success"])
        return {task: (sum(outcomes), len(outcomes)) for task, outcomes in by_task.items()}

    def sheet(self, video: Path) -> Figure:
        """The contact sheet of a task's filmed rollout."""
        (row,) = (row for row in self.rollouts if row["filmed"] and row["task"] == video.stem)
        return contact_sheet(read_film(video), row["instruction"], row["success"], row["actions"])

    def _file(self, name: str) -> Path:
        if not (self.folder / name).exists():
            raise UserError(f"{self.folder / name} is not there")
        return self.folder / name
