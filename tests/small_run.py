"""The real recipes at the smallest size, each run in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = [
    "source.tasks={push_buttons: [0, 1], turn_tap: null}",
    "source.train=3",
    "source.test=1",
    "batch.instructions=4",
    "train.steps=20",
    "train.log_every=1",
    "evaluation.rollouts=1",
    "evaluation.max_actions=2",
    "evaluation.workers=2",
    "evaluation.probe_steps=20",
    "data.workers=2",
]


@dataclass(frozen=True)
class Finished:
    """A run's folder, report and training losses by step, and what it printed."""

    folder: Path
    report: dict[str, Any]
    losses: list[dict[str, Any]]
    printed: str


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "MIRRORLIB_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }


def command(recipe: str, *overrides: str, processes: int = 1) -> list[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", "-m"]
    return [*start, "mirrorlib.run", str(RECIPES / f"{recipe}.yaml"), *SMALL, *overrides]


def launch(folder: Path, recipe: str, *overrides: str, processes: int = 1) -> Finished:
    """Runs to the end, within `folder`; named recipe-processes unless an override names it."""
    overrides = (f"name={recipe}-{processes}", *overrides)
    done = subprocess.run(
        command(recipe, *overrides, processes=processes),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name = [o for o in overrides if o.startswith("name=")][-1].removeprefix("name=")
    return read_run(folder / "runs" / name, done.stdout + done.stderr)


def read_run(run: Path, printed: str = "") -> Finished:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "train/loss" in row]
    return Finished(run, json.loads((run / "report.json").read_text()), losses, printed)
