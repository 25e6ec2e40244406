"""How busy the machine was, queued as any metric."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

mlflow = pytest.importorskip("mlflow")

from mlflow_store import fresh_store  # noqa: E402

from mirrorlib import machine_metrics  # noqa: E402
from mirrorlib.errors import UserError  # noqa: E402
from mirrorlib.machine_metrics import sampling  # noqa: E402
from mirrorlib.tracking import Tracker, track  # noqa: E402

MEMORY = "system/system_memory_usage_megabytes"
DOWN = "http://127.0.0.1:9"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mirrorlib.tracking.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("mirrorlib.tracking.RETRY_SECONDS", 0.0)
    mlflow.set_tracking_uri(fresh_store(tmp_path))
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def test_samples_are_what_the_machine_says(monkeypatch):
    monkeypatch.setattr(machine_metrics, "INTERVAL", 0.02)
    samples = []
    with sampling(samples.append):
        while len(samples) < 3:
            time.sleep(0.01)
    taken = len(samples)
    time.sleep(0.06)
    assert len(samples) == taken, "the thread has ended with the block"
    assert {
        "system/cpu_utilization_percentage", "system/disk_usage_percentage", MEMORY,
        "system/system_memory_usage_percentage",
    } <= samples[0].keys()  # fmt: skip
    used = psutil.virtual_memory().used / 1e6
    assert samples[-1][MEMORY] == pytest.approx(used, rel=0.3)
    disk = psutil.disk_usage("/").percent
    assert samples[-1]["system/disk_usage_percentage"] == pytest.approx(disk, abs=2)
    assert all(0 <= s["system/cpu_utilization_percentage"] <= 100 for s in samples)


def test_a_run_shorter_than_the_interval_has_one_sample():
    samples = []
    with sampling(samples.append):
        pass
    assert len(samples) == 1


def test_what_cannot_be_told_is_left_out(monkeypatch):
    """A container without network interfaces, and a disk that no longer answers."""
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: (_ for _ in ()).throw(OSError("gone")))
    samples = []
    with sampling(samples.append):
        pass
    assert MEMORY in samples[0]
    assert not [name for name in samples[0] if "network" in name or "disk" in name]


def test_a_full_disk_ends_the_samples_and_not_the_run(capsys):
    def full(metrics):
        raise UserError("no space left")

    with sampling(full):
        pass
    assert capsys.readouterr().err == ""


def test_a_run_resumed_has_each_sample_once(store, tmp_path: Path):
    """Sent by an earlier process, kept by it while the server was down, and new."""
    up = mlflow.get_tracking_uri()
    first = Tracker(tmp_path, "mirrors", "n", {}, {})
    first.log_system({MEMORY: 1.0})
    first.log({"train/loss": 1.0}, 1)
    mlflow.set_tracking_uri(DOWN)
    first.log_system({MEMORY: 2.0})
    first.log({"train/loss": 0.9}, 2)
    mlflow.set_tracking_uri(up)
    with track(Tracker(tmp_path, "mirrors", "n", {}, {}, continued_from=1)) as log:
        log({"train/loss": 0.9}, 2)
    second = Tracker(tmp_path, "mirrors", "n", {}, {}, continued_from=2)
    with track(second):
        second.log_system({MEMORY: 3.0})
    (run,) = store.search_runs([store.get_experiment_by_name("mirrors").experiment_id])
    history = store.get_metric_history(run.info.run_id, MEMORY)
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    rows = [json.loads(line) for line in (tmp_path / "system.jsonl").read_text().splitlines()]
    assert [row[MEMORY] for row in rows] == [1.0, 2.0, 3.0]
    losses = store.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.9)]
