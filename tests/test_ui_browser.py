"""`mirrorlib ui` in a real browser: four arms of two seeds, listed, and one curve for each."""

from __future__ import annotations

import math
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import browser  # noqa: E402
from mlflow_store import START_SECONDS, free_port, fresh_store  # noqa: E402

from mirrorlib.tracking import Tracker, track  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.chromium() is None, reason="chromium is not installed: apt-get install chromium"
    ),
]
ARMS = {"infonce": 40.0, "cka": 60.0, "mse": 90.0, "none": 130.0}
STEPS = range(10, 210, 10)


def loss(arm: str, seed: int, step: int) -> float:
    noise = random.Random(f"{arm} {seed} {step}").gauss(0, 0.03)
    return 0.4 + 3 * math.exp(-step / ARMS[arm]) + noise


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ui")
    uri = fresh_store(folder)
    mlflow.set_tracking_uri(uri)
    try:
        for arm in ARMS:
            for seed in (0, 1):
                log_run(folder, arm, seed)
    finally:
        mlflow.set_tracking_uri(None)
    yield uri


def log_run(folder: Path, arm: str, seed: int) -> None:
    run = folder / f"{arm}-seed{seed}"
    run.mkdir()
    tags = {"arm": arm, "objective": arm, "seed": str(seed)}
    tracker = Tracker(run, "mirrorlib", run.name, tags, {"seed": seed})
    with track(tracker) as log:
        for step in STEPS:
            log({"train/executor/loss": loss(arm, seed, step), "train/loss": 1.0}, step)
        log({"eval/success_rate": 0.5 + 0.1 * seed}, STEPS[-1])


@pytest.fixture(scope="module")
def links(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What `mirrorlib ui` prints, while it serves; it ends as SIGTERM asks, with all it started."""
    port = free_port()
    folder = tmp_path_factory.mktemp("served")
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mirrorlib.cli", "ui", "--port", str(port)],
            env=os.environ | {"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=stdout, stderr=stderr, cwd=folder,
        )  # fmt: skip
        try:
            yield printed_links(process, folder)
        finally:
            process.terminate()
            status = process.wait(START_SECONDS)
    assert status == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server has ended, too"


def printed_links(process: subprocess.Popen, folder: Path) -> list[str]:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, (folder / "stderr").read_text()
        found = re.findall(r"http://\S+/runs\S+", (folder / "stdout").read_text())
        if len(found) == 2:
            return found
        time.sleep(0.2)
    raise AssertionError((folder / "stderr").read_text())


def test_the_links_show_every_run_and_a_curve_for_each_arm(links: list[str]):
    runs, curves = links
    with browser.window() as page:
        browser.open_runs(page, runs)
        for arm in ARMS:
            for seed in (0, 1):
                page.get_by_text(f"{arm}-seed{seed}", exact=True).wait_for()
        browser.open_curves(page, curves)
        check_curves(page)


def check_curves(page) -> None:
    """Of the losses the one that arms share: a curve an arm, the mean of its seeds."""
    for arm in ARMS:
        shown = page.get_by_text(f"{arm} (train/executor/loss)", exact=True)
        shown.first.wait_for(state="attached")
    curves = [
        trace["y"]
        for chart in browser.traces(page)
        for trace in chart
        if trace["mode"] == "lines" and trace["x"] == list(STEPS)
    ]
    assert len(curves) == len(ARMS)
    for arm in ARMS:
        mean = [(loss(arm, 0, step) + loss(arm, 1, step)) / 2 for step in STEPS]
        assert sum(curve == pytest.approx(mean, abs=1e-6) for curve in curves) == 1, arm
