"""Runs that are stopped in the middle, and what must be the same in the end."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from small_run import Finished, command, environment

SHORT = (
    "train.steps=8", "train.log_every=3", "train.checkpoint_every=2", "evaluation.simulator=null",
    "train.resume=true",
)  # fmt: skip


def assert_same(run: Finished, reference: Finished) -> None:
    weights = load_file(run.folder / "checkpoints/step-000008/model.safetensors")
    for name, expected in load_file(
        reference.folder / "checkpoints/step-000008/model.safetensors"
    ).items():
        assert torch.equal(weights[name], expected), name
    assert [decisive(row) for row in run.losses] == [decisive(row) for row in reference.losses]
    assert [row["step"] for row in run.losses] == [2, 3, 4, 6, 8]
    assert decisive(run.report["metrics"]) == decisive(reference.report["metrics"])


def decisive(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what the clock decides."""
    clock = ("time", "cost/", "train/pairs_per_second")
    return {name: value for name, value in metrics.items() if not name.startswith(clock)}


def interrupt(
    folder: Path, number: int, name: str, *, rows: int, seconds: float = 0, processes: int = 1
) -> str:
    """Starts a run, sends it a signal, and returns what it said on stderr.

    The signal comes `seconds` after so many rows of losses. Nothing of the run must live on: it
    ends its own workers, and a launcher that is not killed ends its processes.
    """
    process = subprocess.Popen(
        command("infonce", f"name={name}", *SHORT, processes=processes),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = folder / "runs" / name / "metrics.jsonl", time.monotonic() + 200
    while process.poll() is None and rows > (
        log.read_text().count("train/loss") if log.exists() else 0
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(number)
    for launched in family if processes > 1 and number == signal.SIGKILL else ():
        with suppress(psutil.NoSuchProcess):
            launched.kill()
    _, errors = process.communicate(timeout=60)
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left, "a process of the run lives on"
    return errors


def assert_whole_in_mlflow(folder: Path, run: Finished) -> None:
    """One finished run, every value once."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mirrorlib")
    runs = client.search_runs([experiment.experiment_id])
    (found,) = [r for r in runs if r.info.run_name == run.folder.name]
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [
        (row["step"], row["train/loss"]) for row in run.losses
    ]
    name = "eval/probe_recall_at_1_u2e"
    assert [m.value for m in client.get_metric_history(found.info.run_id, name)] == [
        run.report["metrics"][name]
    ]
