"""Records from wherever runs left them: suites, folders, files, run folders, MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mirrorlib.comparison.mlflow_records import experiment_records, run_record
from mirrorlib.errors import UserError
from mirrorlib.recipe import load_recipe
from mirrorlib.records import Record, make_record, read_record, read_records
from mirrorlib.reporting.report import Report
from mirrorlib.run_folder import RECIPE, REPORT

UNKNOWN = "unknown"


@dataclass
class Gathered:
    """What the sources hold. name, baseline, arms: as a suite says, where one is named. question:
    the suite's, where it is the only source. experiment: where in MLflow the runs are, where that
    is known."""

    records: list[Record] = field(default_factory=list)
    name: str | None = None
    baseline: str | None = None
    arms: tuple[str, ...] = ()
    question: str | None = None
    experiment: str | None = None
    notes: list[str] = field(default_factory=list)


def gather(sources: Sequence[str], records: str | None = None) -> Gathered:
    """The records of all sources. Each is a suite's YAML file, a folder of records, a record's
    file, a run's folder, an MLflow experiment's name or an MLflow run's id.

    records: the folder of a suite's records, where it is not the suite's own. Raises UserError
    where a source is none of them, cannot be read, or holds no run.
    """
    gathered = Gathered()
    for source in sources:
        path = Path(source)
        if path.suffix in (".yaml", ".yml"):
            _suite(path, records, gathered)
        elif path.is_dir():
            gathered.records += _folder(path)
        elif path.is_file() or path.suffix == ".json":
            gathered.records.append(read_record(path))
        elif len(path.parts) > 1:
            raise UserError(f"{source}: no such file or folder")
        else:
            _mlflow(source, gathered)
    if len(sources) > 1:
        gathered.question = None
    suites = {record.suite for record in gathered.records}
    if gathered.name is None:
        common = suites.pop() if len(suites) == 1 else None
        gathered.name = common or (Path(sources[0]).stem if len(sources) == 1 else "runs")
    return gathered


def _suite(path: Path, records: str | None, gathered: Gathered) -> None:
    from mirrorlib.suite import load_suite, records_folder

    suite = load_suite(path)
    folder = records_folder(suite, records)
    found = read_records(folder)
    if not found:
        raise UserError(f"{folder}: no record of suite {suite.name} yet; mirrorlib suite {path}")
    seeds = sorted({record.seed for record in found})
    recipes = {(run.arm, run.recipe.sha) for run in load_suite(path, seeds=seeds).runs}
    own = [record for record in found if (record.arm, record.recipe_sha) in recipes]
    if not own:
        raise UserError(f"{folder}: its {len(found)} records are of other recipes than {path} has")
    if len(own) < len(found):
        gathered.notes.append(
            f"{len(found) - len(own)} records in {folder} are of other recipes than {path} has: "
            "left out"
        )
    planned = {(run.arm, run.seed) for run in suite.runs}
    done = len(planned & {(record.arm, record.seed) for record in own})
    if done < len(planned):
        gathered.notes.append(f"{done} of the {len(planned)} runs planned are done")
    gathered.records += own
    gathered.name = gathered.name or suite.name
    gathered.baseline = gathered.baseline or suite.baseline
    gathered.question = suite.question
    gathered.arms += tuple(suite.arms)


def _folder(path: Path) -> list[Record]:
    if (path / RECIPE).is_file():
        return [run_folder_record(path)]
    found = read_records(path)
    if not found:
        raise UserError(
            f"{path}: neither records (*.json) nor a run ({RECIPE}, {REPORT}) is in this folder"
        )
    return found


def run_folder_record(path: Path) -> Record:
    """The record of a finished run, from its folder, which does not say on what machine and with
    which versions it ran. Raises UserError where the run did not finish."""
    report = path / REPORT
    if not report.is_file():
        raise UserError(f"{path}: the run has no {REPORT}; resume it, or leave it out")
    record = make_record(load_recipe(path / RECIPE), Report.read(path), None)
    finished = datetime.fromtimestamp(report.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return replace(record, versions={}, libraries={}, machine=UNKNOWN, finished=finished)


def _mlflow(source: str, gathered: Gathered) -> None:
    if re.fullmatch(r"[0-9a-f]{32}", source):
        record, experiment = run_record(source)
        gathered.records.append(record)
    else:
        found, notes = experiment_records(source)
        gathered.records += found
        gathered.notes += notes
        experiment = source
    gathered.experiment = gathered.experiment or experiment
