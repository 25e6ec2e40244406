"""The report that a person and a program read."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from mirrorlib.evaluation.recognition import Recognition
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.monitor import Monitor, Phase
from mirrorlib.reporting.figures import confusion_matrix, success_bars
from mirrorlib.reporting.report import Report
from mirrorlib.reporting.videos import SCALE, write_video


@pytest.fixture
def report(tmp_path: Path) -> Report:
    report = Report("first", tmp_path)
    report.add_share("eval/recognition_accuracy", 9, 10)
    report.metrics["eval/recognition_accuracy_chance"] = 0.25
    report.add_share("eval/success_rate", 3, 4)
    report.add_share("eval/success_rate/turn_tap", 3, 4)
    report.metrics |= {"eval/recall_at_1_u2e": 0.5, "eval/recall_at_1_chance": 0.1}
    report.phases = {"train": Phase(12.4, 3 * 2**30, 0)}
    report.facts = {"report": "here"}
    return report


def test_the_table_says_what_was_measured(report: Report):
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in report.table().splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert rows["recognition, all instructions"] == ["90.0 %", "59.6 % to 98.2 % (9/10)", "25.0 %"]
    assert rows["success, turn_tap"] == ["75.0 %", "30.1 % to 95.4 % (3/4)", ""]
    assert rows["Recall@1 trained, see -> do, same instruction"] == ["50.0 %", "", "10.0 %"]
    assert rows["train"] == ["12 s", "3.0 GiB"]
    assert rows["together"] == ["12 s", ""]
    assert "report: here" in report.table()


def test_the_file_says_the_same_to_a_program(report: Report):
    content = json.loads(report.write().read_text())
    assert content["metrics"]["eval/success_rate"] == 0.75
    assert content["counts"]["eval/success_rate"] == [3, 4]
    assert content["wilson_95"]["eval/success_rate"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert content["phases"]["train"]["seconds"] == 12.4


def test_a_phase_has_its_time_and_its_memory():
    monitor = Monitor()
    with monitor.phase("work"):
        held = np.ones(50 * 2**20, dtype=np.uint8)
    assert 0 < monitor.phases["work"].seconds < 60
    assert monitor.phases["work"].memory > held.nbytes


def test_pictures_are_drawn(tmp_path: Path):
    names = ["push the red button", "turn left tap"]
    truth, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    confusion_matrix(
        Recognition(names, ["push", "turn"], truth, predicted, truth), tmp_path / "c.png"
    )
    success_bars({"push": (0, 4), "turn": (4, 4)}, tmp_path / "s.png")
    for name in ("c.png", "s.png"):
        picture = imageio.imread(tmp_path / name)
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 10


def test_a_video_plays_and_ends_in_the_colour_of_its_outcome(tmp_path: Path):
    frames = np.full((5, 32, 32, 3), 90, dtype=np.uint8)
    rollout = Rollout(Scene("t", 0, "test", 0), "do it", True, 1, 0, frames)
    write_video(rollout, tmp_path / "v.mp4", fps=5)
    seen = np.stack(imageio.mimread(tmp_path / "v.mp4"))
    assert seen.shape == (10, 32 * SCALE, 32 * SCALE, 3)
    red, green, _ = seen[-1, 4, 4].astype(int)
    assert green - red > 60
    assert abs(seen[0, 4, 4].astype(int) - 90).max() < 12
