"""The report that a person and a program read."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.monitor import Monitor, Phase
from mirrorlib.reporting.report import Report
from mirrorlib.reporting.videos import BAND, read_film, write_video


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


def filmed(success: bool, instruction: str = "do it") -> Rollout:
    frames = np.full((5, 32, 48, 3), 90, dtype=np.uint8)
    frames[:, :16] = 200
    return Rollout(Scene("t", 0, "test", 0), instruction, success, 3, 0, frames)


@pytest.mark.parametrize("success", [True, False])
def test_a_video_plays_and_ends_in_the_colour_of_its_outcome(tmp_path: Path, success: bool):
    write_video(filmed(success), tmp_path / "v.mp4", fps=5)
    seen = np.stack(imageio.mimread(tmp_path / "v.mp4")).astype(int)
    assert seen.shape == (10, 32 * 8 + BAND, 48 * 8, 3)
    red, _, blue = seen[-1, 4, 4]
    assert (blue - red > 100) if success else (red - blue > 100)
    assert abs(seen[0, 4, 4] - 200).max() < 12
    assert abs(seen[-1, 100, 200] - 200).max() < 12


def test_a_video_says_what_was_asked_for_and_at_its_end_what_came_of_it(tmp_path: Path):
    def bands(success: bool, instruction: str) -> tuple[np.ndarray, np.ndarray]:
        write_video(filmed(success, instruction), tmp_path / "v.mp4", fps=5)
        seen = np.stack(imageio.mimread(tmp_path / "v.mp4"))[:, -BAND:].astype(int)
        return seen[0], seen[-1]

    first, last = bands(True, "push the red button")
    other, failed = bands(False, "push the red button")
    longer, _ = bands(
        True, "push the red button, then the green button, then the blue button, " * 3
    )
    assert (first[:24] > 180).any() and not (first[24:] > 60).any()
    assert abs(first - other).max() < 40
    assert (longer[22:42] > 180).any() and not (longer[44:] > 60).any()
    white = [(band[42:] > 200).all(-1) for band in (last, failed)]
    assert min(mask.sum() for mask in white) > 100
    assert white[1].nonzero()[1].max() > white[0].nonzero()[1].max()  # "not solved" is longer


def test_a_film_is_read_without_its_band_and_its_held_end(tmp_path: Path):
    write_video(filmed(True), tmp_path / "v.mp4", fps=5)
    film = read_film(tmp_path / "v.mp4")
    assert film.fps == 5
    assert film.frames.shape == (5, 32 * 8, 48 * 8, 3)
    shown = filmed(True).frames.repeat(8, 1).repeat(8, 2).astype(int)
    assert abs(film.frames.astype(int) - shown).mean() < 4
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
