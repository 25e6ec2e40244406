"""Run folders: `runs/<name>`, then `<name>-2`, `<name>-3`: nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mirrorlib.errors import RecipeError, UserError
from mirrorlib.evaluation.rollouts import OUTCOMES
from mirrorlib.files import write_whole
from mirrorlib.recipe import Recipe, dump_recipe, flatten, load_recipe
from mirrorlib.training.checkpoint import CHECKPOINTS, newest_whole
from mirrorlib.validation import show

RECIPE, REPORT, FINISHED = "recipe.yaml", "report.json", ".finished"
HANDOVER = 10.0
"""Seconds that a resumed run waits for the folder: what a killed process leaves behind needs a
moment to end."""
FREE = (
    "data.cache", "data.workers", "evaluation", "tracking", "output", "train.precision",
    "train.max_steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints",
)  # fmt: skip
"""What may change when a run is resumed: it decides nothing that training computes. (In which
precision it computed is in the checkpoint, whether recipe or launcher said so.)"""


@dataclass(frozen=True)
class RunFolder:
    """checkpoint: from where a resumed run continues, None where it starts. finished: whether
    this very recipe has run to its end there."""

    path: Path
    checkpoint: Path | None = None
    finished: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def finish(self) -> None:
        """Nothing is left to do in this folder, and nothing to send."""
        (self.path / FINISHED).touch()


@contextmanager
def opened(recipe: Recipe) -> Iterator[RunFolder]:
    """A new folder for the run; with `train.resume`, the last one that the same recipe began, if
    there is one. It holds the recipe, and is locked within the block.

    Raises UserError where it cannot be written, where another process runs in it, where the runs
    of that name had other recipes, and where none of its checkpoints is whole.
    """
    path = (_begun(recipe) if recipe.train.resume else None) or _claim(recipe)
    lock = FileLock(path / ".lock", timeout=HANDOVER if recipe.train.resume else 0)
    try:
        lock.acquire()
    except Timeout as error:  # an OSError, too
        raise UserError(
            f"{path}: another process runs there; stop it first, or leave train.resume out"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield _prepared(path, recipe)
    finally:
        lock.release()


def _prepared(path: Path, recipe: Recipe) -> RunFolder:
    """Writes the recipe, clears what a killed process left half written, and finds the checkpoint
    to continue from."""
    if _finished(path, recipe):
        return RunFolder(path, finished=True)
    try:
        for name in (FINISHED, REPORT, OUTCOMES):
            (path / name).unlink(missing_ok=True)
        for partial in (path / CHECKPOINTS).glob(".*.partial"):
            shutil.rmtree(partial)
        write_whole(path / RECIPE, dump_recipe(recipe))
    except OSError as error:
        raise _unwritable(path, error) from error
    checkpoint, skipped = newest_whole(path / CHECKPOINTS)
    if skipped and checkpoint is None:
        raise UserError(
            f"{skipped[0]}, and no checkpoint of the run is whole: leave train.resume out to "
            "begin anew"
        )
    for problem in skipped:
        print(f"mirrorlib: {problem}: skipped", file=sys.stderr)
    if recipe.train.resume:
        start = f"from {checkpoint.name}" if checkpoint else "from the beginning: no checkpoint yet"
        print(f"mirrorlib: {path} continues {start}", file=sys.stderr)
    return RunFolder(path, checkpoint)


def _finished(path: Path, recipe: Recipe) -> bool:
    """Whether nothing is left to do. Raises UserError where the results would be overwritten."""
    if not (path / FINISHED).exists():
        return False
    before, now = (dict(flatten(r.resolved())) for r in (load_recipe(path / RECIPE), recipe))
    if before["train.max_steps"] != now["train.max_steps"]:
        return False
    evaluation = sorted(
        key for key in before.keys() | now.keys()
        if key.startswith("evaluation.") and before.get(key) != now.get(key)
    )  # fmt: skip
    if evaluation:
        key = evaluation[0]
        raise UserError(
            f"{path} has finished with {key}={show(before.get(key))}; evaluate it otherwise with "
            f"mirrorlib evaluate {path} {key}={show(now.get(key))}"
        )
    return True


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: runs cannot be kept there ({error.strerror}); set output")


def _candidates(recipe: Recipe) -> Iterator[Path]:
    for number in itertools.count(1):
        yield Path(recipe.output) / (recipe.name if number == 1 else f"{recipe.name}-{number}")


def _claim(recipe: Recipe) -> Path:
    """The first folder that is free. Raises UserError where none can be made."""
    try:
        Path(recipe.output).mkdir(parents=True, exist_ok=True)
        for path in _candidates(recipe):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise _unwritable(Path(recipe.output), error) from error
    raise AssertionError("the numbers have no end")


def _begun(recipe: Recipe) -> Path | None:
    """The last folder whose recipe trains as this one does; one without a recipe began nothing.
    Raises UserError where there are others only."""
    wanted = _decisive(recipe.resolved())
    problem = None
    for path in reversed(list(itertools.takewhile(Path.is_dir, _candidates(recipe)))):
        if not (path / RECIPE).exists():
            continue
        try:
            begun = _decisive(load_recipe(path / RECIPE).resolved())
        except RecipeError as error:
            problem = problem or f"{path} cannot be resumed: {error.lines[0]}"
            continue
        changed = sorted(k for k in begun.keys() | wanted.keys() if begun.get(k) != wanted.get(k))
        if not changed:
            return path
        key = changed[0]
        problem = problem or (
            f"{path} cannot be resumed: it was begun with {key}={begun.get(key)}, not "
            f"{wanted.get(key)}; write what it had, or leave train.resume out"
        )
    if problem is not None:
        raise UserError(problem)
    return None


def _decisive(resolved: Mapping[str, Any]) -> dict[str, str]:
    """What decides the parameters, as `a.b` -> value."""
    return {
        key: json.dumps(value)
        for key, value in flatten(resolved)
        if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    }
