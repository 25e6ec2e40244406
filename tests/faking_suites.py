"""Suites whose runs are tests/fake_run.py: they leave records, and train nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mirrorlib.cli import guarded
from mirrorlib.records import FORMAT, Record
from mirrorlib.suite import Run, Suite, load_suite
from mirrorlib.suites import running

TESTS = Path(__file__).parent
BASE = TESTS.parent / "recipes" / "comparison.yaml"
SUITE = """\
# a question
name: q
recipe: {recipe}
baseline: cold
seeds: 2
arms:
  warm: {{}}
  cold: {{objective.temperature: 0.02}}
"""


def record_of(suite: Suite, run: Run) -> Record:
    return Record(
        suite=suite.name, arm=run.arm, seed=run.seed, recipe_sha=run.recipe.sha,
        recipe=run.recipe.decisive(), versions=run.versions, libraries={}, commit=None,
        machine="m", finished="2026-01-01T00:00:00+00:00", metrics={"eval/success_rate": 0.5},
    )  # fmt: skip


def fake_command(suite: Suite, run: Run) -> list[str]:
    record = record_of(suite, run)
    text = json.dumps({"format": FORMAT, **asdict(record)})
    label = f"{run.arm}{run.seed}"
    path = suite.records / record.file_name
    return [sys.executable, "-S", str(TESTS / "fake_run.py"), "log", label, str(path), text]


def main(file: str) -> int:
    """`mirrorlib suite FILE`, its runs faked."""
    running.command = fake_command
    return guarded(lambda: running.run_suite(load_suite(file)))


def start(folder: Path) -> subprocess.Popen:
    """`main` in a process and a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "import faking_suites as f, sys; sys.exit(f.main('q.yaml'))"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def noted(folder: Path, what: str) -> list[str]:
    """Which runs noted this, in order."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.split()[0] == what]


def process_of(folder: Path, label: str) -> int:
    """The last process that began this run."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return int([line for line in lines if line[:2] == ["began", label]][-1][2])


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def behave(folder: Path, labels: Sequence[str], how: str | None) -> None:
    for label in labels:
        file = folder / f"{label}.behaviour"
        if how is None:
            file.unlink()
        else:
            file.write_text(how)
