"""Records: what a finished run leaves for comparison, one small JSON file that can be committed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorlib.errors import UserError
from mirrorlib.files import write_whole
from mirrorlib.provenance import describe_machine, library_versions, used_versions
from mirrorlib.recipe import Recipe

if TYPE_CHECKING:
    from mirrorlib.reporting.report import Report  # torch

FORMAT = 1
CURVE_POINTS = 40


@dataclass(frozen=True)
class Record:
    """recipe: `a.b` -> value, what decided the numbers. versions: of mirrorlib and the plugins
    that were used; libraries: of what they stand on. metrics: as in `report.json`. counts: metric
    -> (hits, trials). curves: metric -> (steps, values) over training, thinned."""

    suite: str | None
    arm: str
    seed: int
    recipe_sha: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    libraries: Mapping[str, str]
    commit: str | None
    machine: str
    finished: str
    metrics: Mapping[str, float]
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    curves: Mapping[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        arm = re.sub(r"[^A-Za-z0-9._-]", "_", self.arm)
        return f"{arm}-seed{self.seed}-{self.recipe_sha}.json"

    def write(self, folder: Path) -> Path:
        """Writes it whole into the folder, over an older one of the same recipe and seed."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        write_whole(path, re.sub(r"\[\n[^][{}\"]*\]", _on_one_line, text) + "\n")
        return path


def read_record(path: Path) -> Record:
    """Raises UserError where the file is no record."""
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise UserError(f"{path}: a record of another version of mirrorlib; run it again")
        content["counts"] = {k: (hits, trials) for k, (hits, trials) in content["counts"].items()}
        content["curves"] = {k: (steps, v) for k, (steps, v) in content["curves"].items()}
        return Record(**content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is no record of a run ({error}); delete it") from error


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, by arm and seed; none where there is no folder. Raises UserError."""
    found = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda record: (record.arm, record.seed))


def records_of(folder: Path, sha: str) -> list[Record]:
    """The records of one recipe and seed in a folder, one for each arm's name. Raises UserError."""
    return [read_record(path) for path in sorted(folder.glob(f"*-{sha}.json"))]


def make_record(recipe: Recipe, report: Report, commit: str | None) -> Record:
    """The record of a run that has just been evaluated."""
    return Record(
        suite=recipe.tracking.suite,
        arm=recipe.tracking.arm or recipe.objective.name,
        seed=recipe.seed,
        recipe_sha=recipe.sha,
        recipe=recipe.decisive(),
        versions=used_versions(recipe),
        libraries=library_versions(recipe),
        commit=commit,
        machine=describe_machine(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=dict(report.metrics),
        counts=dict(report.counts),
        curves=_curves(report.folder / "metrics.jsonl"),
    )


def _on_one_line(numbers: re.Match[str]) -> str:
    return re.sub(r"\n *", " ", numbers[0]).replace("[ ", "[", 1)[:-2] + "]"


def _curves(file: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Each metric of training, at most CURVE_POINTS evenly spaced rows."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = [row for row in rows if "train/loss" in row]
    if len(rows) > CURVE_POINTS:
        last = len(rows) - 1
        rows = [rows[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
    names = sorted({name for row in rows for name in row} - {"step", "time"})
    return {
        name: (
            [row["step"] for row in rows if name in row],
            [float(f"{row[name]:.5g}") for row in rows if name in row],
        )
        for name in names
    }
