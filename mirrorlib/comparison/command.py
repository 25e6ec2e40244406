"""The command `mirrorlib compare`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mirrorlib.comparison.arms import compare
from mirrorlib.comparison.gather import gather
from mirrorlib.comparison.mlflow_records import log_comparison
from mirrorlib.comparison.output import default_folder, write_comparison
from mirrorlib.comparison.table import summary

EXPERIMENT = "mirrorlib"


def run(arguments: argparse.Namespace) -> None:
    """Prints the tables, writes the folder, logs it to MLflow. Raises UserError.

    arguments: sources, baseline, out, records, experiment, no_mlflow.
    """
    gathered = gather(arguments.sources, arguments.records)
    baseline = arguments.baseline or gathered.baseline
    comparison = compare(
        gathered.records,
        baseline,
        name=gathered.name or "comparison",
        arms=gathered.arms,
        question=gathered.question if baseline == gathered.baseline else None,
        notes=gathered.notes,
    )
    folder = Path(arguments.out) if arguments.out else default_folder(comparison.name)
    write_comparison(comparison, folder, _line(arguments))
    print(summary(comparison))
    print(
        f"page: {folder / 'page.html'}; tables: {folder / 'summary.csv'}, {folder / 'values.csv'}"
    )
    if not arguments.no_mlflow:
        experiment = arguments.experiment or gathered.experiment or EXPERIMENT
        tags = {"baseline": comparison.baseline}
        run_id = log_comparison(folder, experiment, comparison.name, tags)
        if run_id:
            print(f"MLflow run: {run_id} in experiment {experiment!r}")


def _line(arguments: argparse.Namespace) -> str:
    """The command, as it can be given again."""
    words = ["mirrorlib", "compare", *arguments.sources]
    for option in ("baseline", "out", "records", "experiment"):
        if (value := getattr(arguments, option)) is not None:
            words += [f"--{option}", value]
    return shlex.join(words + ["--no-mlflow"] * arguments.no_mlflow)
