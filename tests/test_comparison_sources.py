"""Where records come from, and the command from end to end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from comparison_records import record, suite

from mirrorlib import cli
from mirrorlib.comparison import compare, gather
from mirrorlib.errors import UserError
from mirrorlib.recipe import dump_recipe, load_recipe
from mirrorlib.reporting.report import Report
from mirrorlib.suite import load_suite

mlflow = pytest.importorskip("mlflow")
from mlflow.entities import Metric  # noqa: E402

RECIPES = Path(__file__).parent.parent / "recipes"
SUCCESS = "eval/success_rate"
VALUES = {"none": [0.5, 0.6, 0.7, 0.6, 0.5], "infonce": [0.7, 0.8, 0.8, 0.75, 0.6]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def left(folder: str, values=VALUES, **changes) -> Path:
    for each in suite(values, **changes):
        each.write(Path(folder))
    return Path(folder)


def left_by_runs(file: str, values, folder: Path | None = None) -> None:
    """Records of a suite's own recipes."""
    most = max(map(len, values.values()))
    planned = load_suite(file, seeds=range(most))
    for run in planned.runs:
        if run.seed < len(values.get(run.arm, ())):
            rate, sha = values[run.arm][run.seed], run.recipe.sha
            record(run.arm, run.seed, {SUCCESS: rate}, recipe_sha=sha).write(
                folder or planned.records
            )


def logged(client, objective: str, seed: int, status: str = "FINISHED", **tags: str) -> str:
    """An MLflow run as training leaves one."""
    found = client.get_experiment_by_name("mirrors")
    experiment = found.experiment_id if found else client.create_experiment("mirrors")
    own = {
        "objective": objective,
        "seed": str(seed),
        "recipe_sha": f"{objective}-{seed}",
        "git_sha": "abc",
    }
    run = client.create_run(experiment, tags=own | tags).info.run_id
    for key, value in {"seed": seed, "objective.name": objective, "tracking.suite": "x"}.items():
        client.log_param(run, key, value)
    rows = [Metric("train/loss", 1 / (1 + step), 0, step) for step in range(0, 500, 10)]
    rows += [Metric(SUCCESS, 0.5 + seed / 10, 0, 500), Metric("cost/train_seconds", 12.0, 0, 500)]
    client.log_batch(run, rows)
    client.set_terminated(run, status)
    return run


def test_a_folder_and_files_of_records():
    folder = left("records/objectives")
    gathered = gather([str(folder)])
    assert (gathered.name, len(gathered.records), gathered.baseline) == ("objectives", 10, None)
    files = sorted(map(str, folder.glob("none-*.json")))
    assert [r.seed for r in gather(files).records] == [0, 1, 2, 3, 4]


def test_a_suite_brings_name_baseline_and_order():
    Path("mine.yaml").write_text(
        f"name: mine\nrecipe: {RECIPES / 'none.yaml'}\nbaseline: plain\nseeds: 2\n"
        "arms:\n  zebra: {train.steps: 3}\n  plain: {}\n  ape: {train.steps: 4}\nquestion: ape\n"
    )
    with pytest.raises(UserError, match=r"records/mine: no record of suite mine yet"):
        gather(["mine.yaml"])
    left_by_runs("mine.yaml", {"ape": [0.1, 0.2], "plain": [0.3, 0.2], "zebra": [0.1]})
    gathered = gather(["mine.yaml"])
    assert (gathered.name, gathered.baseline, gathered.question) == ("mine", "plain", "ape")
    comparison = compare(gathered.records, gathered.baseline, arms=gathered.arms)
    assert comparison.arms == ("plain", "zebra", "ape")
    assert gathered.notes == ["5 of the 6 runs planned are done"]
    assert gather(["mine.yaml", "records/mine"]).question is None


def test_records_of_other_recipes_are_left_out_of_a_suite():
    Path("mine.yaml").write_text(
        f"name: mine\nrecipe: {RECIPES / 'none.yaml'}\nbaseline: plain\nseeds: 1\n"
        "arms:\n  plain: {}\n  ape: {train.steps: 4}\n"
    )
    left("records/mine", {"ape": [0.5]})
    with pytest.raises(UserError, match=r"its 1 records are of other recipes than mine\.yaml has"):
        gather(["mine.yaml"])
    left_by_runs("mine.yaml", {"plain": [0.3, 0.2]})
    gathered = gather(["mine.yaml"])
    assert [(r.arm, r.seed) for r in gathered.records] == [("plain", 0), ("plain", 1)]
    assert gathered.notes == [
        "1 records in records/mine are of other recipes than mine.yaml has: left out",
        "1 of the 2 runs planned are done",
    ]
    left_by_runs("mine.yaml", {"plain": [0.1]}, Path("elsewhere"))
    assert len(gather(["mine.yaml"], "elsewhere").records) == 1


def test_a_run_folder():
    folder = Path("runs/first")
    folder.mkdir(parents=True)
    recipe = load_recipe(RECIPES / "none.yaml", ["seed=7", "tracking.suite=mine"])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    with pytest.raises(UserError, match=r"runs/first: the run has no report\.json"):
        gather([str(folder)])
    report = Report("first", folder)
    report.add_share(SUCCESS, 3, 4)
    report.write()
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 0, "train/loss": 2.0}))
    (found,) = gather([str(folder)]).records
    assert (found.arm, found.seed, found.suite, found.recipe_sha) == ("none", 7, "mine", recipe.sha)
    assert (found.metrics, found.curves) == ({SUCCESS: 0.75}, {"train/loss": ([1], [2.0])})
    assert (found.versions, found.machine) == ({}, "unknown")


def test_mlflow_experiment_and_runs(store):
    run = logged(store, "none", 1, suite="s", arm="plain")
    logged(store, "infonce", 0)
    logged(store, "infonce", 1, status="FAILED")
    logged(store, "infonce", 0, checkpoint="runs/x")
    logged(store, "infonce", 0, comparison="earlier")
    gathered = gather(["mirrors"])
    assert gathered.experiment == "mirrors"
    assert gathered.notes == ["mirrors: 2 of 3 runs finished; the rest is left out"]
    found = {each.arm: each for each in gathered.records}
    assert found.keys() == {"plain", "infonce"}
    plain = found["plain"]
    assert (plain.suite, plain.seed, plain.recipe_sha, plain.commit) == ("s", 1, "none-1", "abc")
    assert plain.metrics == {SUCCESS: 0.6, "cost/train_seconds": 12.0}
    assert plain.recipe == {"seed": "1", "objective.name": "none"}
    steps, values = plain.curves["train/loss"]
    assert len(steps) == 40 and (steps[0], steps[-1]) == (0, 490)
    assert values == [1 / (1 + step) for step in steps]
    assert gather([run]).records == [plain]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "nowhere: neither a file, a folder, an MLflow run's id nor an experiment"),
        ("records/gone", "records/gone: no such file or folder"),
        ("gone.json", r"gone\.json: cannot be read"),
        ("0" * 32, "MLflow .*not found"),
        ("empty", "empty: neither records"),
        ("broken.json", r"broken\.json: is no record of a run"),
    ],
)
def test_what_is_no_source_is_one_line(store, source: str, said: str):
    Path("empty").mkdir()
    Path("broken.json").write_text("{}")
    with pytest.raises(UserError, match=said) as raised:
        gather([source])
    assert len(raised.value.lines) == 1


@pytest.mark.parametrize("source", ["objective", "0" * 32])
def test_a_look_into_mlflow_creates_no_store(store, source: str):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    try:
        with pytest.raises(UserError, match="neither a file nor a folder, and no MLflow store"):
            gather([source])
    finally:
        mlflow.set_tracking_uri(before)
    assert os.listdir() == []


def test_the_command_prints_writes_and_logs(store, capsys):
    folder = left("records/objectives")
    assert cli.main(["compare", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "| infonce | 5     | 73.0 [" in printed
    out = Path("comparison/objectives")
    assert {p.name for p in out.iterdir()} == {
        "summary.md", "values.csv", "summary.csv", "page.html", "figures",
    }  # fmt: skip
    assert (out / "summary.md").read_text() in printed
    assert "mirrorlib compare records/objectives</code>" in (out / "page.html").read_text()
    experiment = store.get_experiment_by_name("mirrorlib")
    (run,) = store.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.tags["comparison"], run.data.tags["baseline"]) == ("objectives", "none")
    assert {a.path for a in store.list_artifacts(run.info.run_id)} == {
        p.name for p in out.iterdir()
    }
    assert cli.main(["compare", str(folder), "--no-mlflow", "--baseline", "infonce"]) == 0
    assert len(store.search_runs([experiment.experiment_id])) == 1
    assert "minus infonce" in (out / "summary.md").read_text()


def test_a_server_that_is_down_is_one_line(store, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    code = cli.main(["compare", str(left("records/objectives"))])
    mlflow.set_tracking_uri(before)
    assert code == 0
    assert Path("comparison/objectives/page.html").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("mirrorlib: not logged to MLflow")] == lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["records/objectives", "--baseline", "nome"],
         "mirrorlib: no arm is called 'nome'; did you mean 'none'?; choose --baseline among: "
         "infonce, none"),
        (["records/none"], None),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments: list[str], said: str | None, capsys):
    left("records/objectives")
    Path("records/none").mkdir()
    assert cli.main(["compare", *arguments, "--no-mlflow"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert said is None or error == said


def test_forty_runs_are_compared_in_seconds():
    generator = np.random.default_rng(0)
    records = [
        record(arm, seed, {f"eval/success_rate/{t}": generator.random() for t in range(40)})
        for arm in map(str, range(12))
        for seed in range(20)
    ]
    started = time.process_time()
    comparison = compare(records, "0")
    assert len(comparison.summaries) == 40
    assert time.process_time() - started < 10
    assert os.listdir() == []
