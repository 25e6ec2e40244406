"""Records from MLflow's runs, and a comparison back into MLflow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mirrorlib.comparison.outcomes import CURVES
from mirrorlib.errors import UserError
from mirrorlib.recipe import INCIDENTAL
from mirrorlib.records import CURVE_POINTS, Record
from mirrorlib.tracking import experiment_id, first_line, prepare_store

TAG = "comparison"
"""Marks the runs that hold comparisons; they are never compared themselves."""


def experiment_records(name: str) -> tuple[list[Record], list[str]]:
    """The finished runs of an experiment, and what was left out. Raises UserError."""
    _refuse_missing_store(name)
    with _reached() as client:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise UserError(
                f"{name}: neither a file, a folder, an MLflow run's id nor an experiment of "
                f"MLflow's ({_uri()})"
            )
        runs = _runs(client, experiment.experiment_id)
        trained = [run for run in runs if not {TAG, "checkpoint", "probe"} & run.data.tags.keys()]
        whole = [run for run in trained if _is_whole(run)]
        notes = []
        if len(whole) < len(trained):
            notes.append(
                f"{name}: {len(whole)} of {len(trained)} runs finished; the rest is left out"
            )
        if not whole:
            raise UserError(f"{name}: this MLflow experiment has no finished run yet")
        shown = tqdm(whole, desc="reading runs", unit="run", disable=None, leave=False)
        return [_record(client, run) for run in shown], notes


def run_record(run_id: str) -> tuple[Record, str]:
    """The record of an MLflow run, and its experiment's name. Raises UserError."""
    _refuse_missing_store(run_id)
    with _reached() as client:
        run = client.get_run(run_id)
        if not _is_whole(run):
            raise UserError(f"MLflow run {run_id}: has not finished training and evaluation")
        return _record(client, run), client.get_experiment(run.info.experiment_id).name


def log_comparison(folder: Path, experiment: str, name: str, tags: Mapping[str, str]) -> str | None:
    """A run of its own with the folder's files, tagged `comparison`. Returns its id; None, and one
    line on stderr, where MLflow cannot be reached."""
    from mlflow import MlflowClient

    try:
        prepare_store()
        client = MlflowClient()
        run = client.create_run(
            experiment_id(client, experiment), run_name=f"compare {name}", tags={TAG: name, **tags}
        )
        client.log_artifacts(run.info.run_id, str(folder))
        client.set_terminated(run.info.run_id)
    except Exception as error:  # whatever MLflow or its store raises: the files are there
        print(f"mirrorlib: not logged to MLflow ({first_line(error)})", file=sys.stderr)
        return None
    return str(run.info.run_id)


@contextmanager
def _reached() -> Iterator[Any]:
    """A client; a store that does not answer is the user's to mend."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        prepare_store()
        yield MlflowClient()
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow ({_uri()}): {first_line(error)}") from error


def _refuse_missing_store(source: str) -> None:
    """Asking MLflow would create it."""
    uri = _uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(
            f"{source}: neither a file nor a folder, and no MLflow store is here ({uri})"
        )


def _uri() -> str:
    import mlflow

    return str(mlflow.get_tracking_uri())


def _runs(client: Any, experiment: str) -> list[Any]:
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], max_results=200, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _is_whole(run: Any) -> bool:
    measured = any(name.startswith("eval/") for name in run.data.metrics)
    return run.info.status == "FINISHED" and measured and "recipe_sha" in run.data.tags


def _record(client: Any, run: Any) -> Record:
    """MLflow keeps parameters as text, and neither versions nor the machine."""
    tags, metrics = run.data.tags, run.data.metrics
    ended = datetime.fromtimestamp(run.info.end_time / 1000, UTC)
    return Record(
        suite=tags.get("suite"),
        arm=tags.get("arm") or tags["objective"],
        seed=int(tags["seed"]),
        recipe_sha=tags["recipe_sha"],
        recipe={key: value for key, value in run.data.params.items() if _decides(key)},
        versions={},
        libraries={},
        commit=tags.get("git_sha"),
        machine="unknown",
        finished=ended.isoformat(timespec="seconds"),
        metrics={k: v for k, v in metrics.items() if k.startswith(("eval/", "cost/"))},
        curves={
            name: _curve(client.get_metric_history, run.info.run_id, name)
            for name, _ in CURVES
            if name in metrics
        },
    )


def _curve(
    history: Callable[[str, str], list[Any]], run_id: str, name: str
) -> tuple[list[int], list[float]]:
    points = sorted({metric.step: metric.value for metric in history(run_id, name)}.items())
    if len(points) > CURVE_POINTS:
        last = len(points) - 1
        points = [points[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
    return [step for step, _ in points], [float(value) for _, value in points]


def _decides(key: str) -> bool:
    return not any(key == free or key.startswith(f"{free}.") for free in INCIDENTAL)
