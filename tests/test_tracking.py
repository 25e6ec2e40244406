"""MLflow runs: recorded as they went, and kept when the server is down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow")

from mlflow_store import fresh_store  # noqa: E402

from mirrorlib.journal import METRICS_SENT, Journal  # noqa: E402
from mirrorlib.tracking import Tracker, track  # noqa: E402


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mirrorlib.tracking.FLUSH_SECONDS", 0.0)
    mlflow.set_tracking_uri(fresh_store(tmp_path))
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def make_tracker(folder: Path, continued_from: int = 0) -> Tracker:
    parameters = {"train": {"steps": 3, "weights": {"alignment": 0.5}}, "name": "n"}
    tags = {"objective": "infonce"}
    return Tracker(folder, "mirrors", "first", tags, parameters, continued_from)


def only_run(client):
    experiment = client.get_experiment_by_name("mirrors")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_run_holds_parameters_tags_metrics_and_artefacts(store, tmp_path: Path):
    tracker = make_tracker(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"x")
    with track(tracker) as log:
        for step in range(3):
            log({"train/loss": 1.0 / (step + 1)}, step)
        tracker.artifact(tmp_path / "picture.png", "figures")
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.steps": "3", "train.weights.alignment": "0.5", "name": "n"}
    assert run.data.tags["objective"] == "infonce"
    history = store.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert [a.path for a in store.list_artifacts(run.info.run_id, "figures")] == [
        "figures/picture.png"
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_that_broke_is_not_recorded_as_finished(store, tmp_path: Path, error, status):
    with pytest.raises(error), track(make_tracker(tmp_path)) as log:
        log({"train/loss": 1.0}, 0)
        raise error
    run = only_run(store)
    assert run.info.status == status
    assert run.data.metrics == {"train/loss": 1.0}


def test_a_server_that_is_down_stops_nothing_and_loses_nothing(tmp_path: Path, capsys):
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with track(make_tracker(tmp_path)) as log:
            for step in range(3):
                log({"train/loss": float(step)}, step)
    finally:
        mlflow.set_tracking_uri(None)
    printed = capsys.readouterr().err
    assert printed.count("MLflow cannot be reached") == 1
    assert "metrics.jsonl" in printed
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_what_waited_arrives_in_order_once_the_server_is_back(store, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mirrorlib.tracking.RETRY_SECONDS", 0.0)
    tracker = make_tracker(tmp_path)
    good = mlflow.get_tracking_uri()
    with track(tracker) as log:
        mlflow.set_tracking_uri("http://127.0.0.1:9")
        log({"train/loss": 0.0}, 0)
        log({"train/loss": 1.0}, 1)
        mlflow.set_tracking_uri(good)
        log({"train/loss": 2.0}, 2)
    history = store.get_metric_history(only_run(store).info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_what_mlflow_refuses_holds_up_nothing_else(store, tmp_path: Path, capsys):
    tracker = make_tracker(tmp_path)
    with track(tracker) as log:
        tracker.artifact(tmp_path / "absent.png")
        log({"train/loss": 1.0}, 1)
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"train/loss": 1.0}
    assert capsys.readouterr().err.count("MLflow refused something") == 1


def test_a_name_that_mlflow_forbids_is_written_otherwise(store, tmp_path: Path):
    with track(make_tracker(tmp_path)) as log:
        log({"recall@1": 0.5, "train/loss": 1.0}, 0)
    assert only_run(store).data.metrics == {"recall_1": 0.5, "train/loss": 1.0}


def test_a_run_continues_where_it_was(store, tmp_path: Path):
    """Of what was logged after the checkpoint at step 3 nothing stays but what comes again."""
    first = make_tracker(tmp_path)
    for step in range(1, 6):
        first.log({"train/loss": float(step), "train/more": 0.5}, step)
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 6, "tra')  # killed in mid-line
    with track(make_tracker(tmp_path, continued_from=3)) as log:
        for step in range(4, 8):
            log({"train/loss": float(step), "train/more": 0.5}, step)
        log({"eval/success_rate": 0.25}, 7)
    run = only_run(store)
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "train/more"):
        history = store.get_metric_history(run.info.run_id, name)
        assert [m.step for m in history] == list(range(1, 8))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("train/loss") for row in rows] == [1, 2, 3, 4, 5, 6, 7, None]
    assert run.data.metrics["eval/success_rate"] == 0.25


def test_what_a_dead_server_never_took_is_sent_when_the_run_continues(store, tmp_path: Path):
    good = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    first = make_tracker(tmp_path)
    for step in (1, 2, 3):
        first.log({"train/loss": float(step)}, step)
    mlflow.set_tracking_uri(good)
    with track(make_tracker(tmp_path, continued_from=2)) as log:
        log({"train/loss": 3.0}, 3)
    run = only_run(store)
    assert run.data.params["train.steps"] == "3"
    history = store.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_a_run_that_is_gone_from_mlflow_begins_anew_there(store, tmp_path: Path, gone: str):
    first = make_tracker(tmp_path)
    first.log({"train/loss": 1.0}, 1)
    if gone == "deleted":
        store.delete_run(only_run(store).info.run_id)
    else:
        note = json.loads((tmp_path / "mlflow.json").read_text()) | {"run_id": "f" * 32}
        (tmp_path / "mlflow.json").write_text(json.dumps(note))
        store.delete_run(only_run(store).info.run_id)
    with track(make_tracker(tmp_path, continued_from=1)) as log:
        log({"train/loss": 2.0}, 2)
    history = store.get_metric_history(only_run(store).info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 2.0)]


def test_rows_are_sent_whole_and_few_at_a_time(tmp_path: Path):
    def next_of(rows: int, names: int) -> int:
        journal = Journal(tmp_path / f"{rows}-{names}.jsonl", lambda row: True)
        for step in range(rows):
            journal.add({str(i): 0.0 for i in range(names - 2)}, step)  # with step and time
        return len(journal.next())

    assert next_of(30, 40) == METRICS_SENT // 40
    assert next_of(3, 40) == 3
    assert next_of(2, 900) == 1
    assert next_of(0, 40) == 0


def test_a_connection_that_breaks_is_tried_again(store, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mirrorlib.tracking.RETRY_SECONDS", 0.0)
    tracker, calls = make_tracker(tmp_path), []

    def send(client, run):
        calls.append(run)
        if len(calls) == 1:
            raise ConnectionError("reset by peer")  # an OSError, as those of requests are

    with track(tracker) as log:
        tracker._queue.append(send)
        log({"train/loss": 1.0}, 0)
    assert len(calls) == 2
    assert only_run(store).data.metrics == {"train/loss": 1.0}


START = """
import sys
from pathlib import Path
from mirrorlib.tracking import Tracker, track
folder = Path(sys.argv[1])
folder.mkdir()
with track(Tracker(folder, "mirrors", "n", {}, {})) as log:
    log({"a": 1.0}, 0)
"""


def test_four_processes_may_start_on_a_fresh_store(tmp_path: Path):
    command = [sys.executable, "-c", START]
    processes = [
        subprocess.Popen([*command, str(i)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.get_experiment_by_name("mirrors")
    runs = store.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4, errors
