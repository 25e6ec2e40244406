"""Recording live demonstrations, over a stand-in for RLBench."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib.randomness import scene_seed
from mirrorlib_rlbench import RLBenchDataset, read_episode
from mirrorlib_rlbench.config import CAMERAS, SimulatorConfig
from mirrorlib_rlbench.record import Demonstration, Failed, Wanted, main, record
from mirrorlib_rlbench.simulator import RLBenchSimulator
from mirrorlib_rlbench.writing import ASIDE, coded

SIZE, FRAMES = 16, 8
upstream = pytest.mark.parametrize("vintage", ["upstream"], indirect=True)


def wanted(root: Path, episodes: int = 2, **changes: Any) -> Wanted:
    changes = {"tasks": ["open_drawer", "turn_tap"], "variations": [0, 1]} | changes
    return Wanted(root, "train", episodes=episodes, image_size=SIZE, **changes)


def test_what_is_recorded_is_read(control: Any, tmp_path: Path, vintage: str) -> None:
    made = record(wanted(tmp_path, 1, variations=None))
    assert [(d.task, d.variation) for d in made] == [
        *(("open_drawer", variation) for variation in range(3)),
        *(("turn_tap", variation) for variation in range(2)),
    ]
    folder = tmp_path / "train/open_drawer/variation2/episodes/episode0"
    episode = read_episode(folder)
    assert (episode.task, episode.variation) == ("open_drawer", 2)
    assert episode.instructions == ["go to drawer 2", "drawer number 2 is it"]
    assert set(episode.rgb) == set(CAMERAS) and len(episode.frames) == FRAMES
    assert episode.rgb["front"].shape == (FRAMES, SIZE, SIZE, 3)
    assert episode.gripper_open is not None and episode.gripper_open.tolist() == [1] * 5 + [0] * 3
    for name in ("joint_forces", "joint_velocities", "gripper_touch_forces", "gripper_matrix"):
        assert getattr(episode, name) is not None
    assert (episode.ignore_collisions is not None) == (vintage == "peract")
    assert episode.keyframes == [5, 7]
    source = RLBenchDataset(tmp_path)
    assert len(source) == 5 and [e.task for e in source] == ["open_drawer"] * 3 + ["turn_tap"] * 2
    assert not any((tmp_path / "train" / ASIDE).iterdir())
    assert len(list((tmp_path / "train").rglob("*.png"))) == 5 * FRAMES * 10


def test_rlbench_reads_it_back(control: Any, tmp_path: Path, vintage: str) -> None:
    """The pickle holds RLBench's own classes, without images, as its generator leaves them."""
    record(wanted(tmp_path, 1, tasks=["turn_tap"], variations=[1]))
    folder = tmp_path / "train/turn_tap/variation1/episodes/episode0"
    demo = pickle.loads((folder / "low_dim_obs.pkl").read_bytes())
    assert type(demo).__module__ == "rlbench.demo" and len(demo) == FRAMES
    for observation in demo:
        images = [getattr(observation, f"{c}_{kind}") for c in CAMERAS for kind in ("rgb", "depth")]
        assert images == [None] * 10 and observation.front_mask is None
    if vintage == "peract":
        assert demo.variation_number == 1
    else:
        assert demo.num_reset_attempts == 1 and demo[0].misc["variation_index"] == 1
    for camera in CAMERAS:
        for kind in ("rgb", "depth"):
            names = {file.name for file in (folder / f"{camera}_{kind}").iterdir()}
            assert names == {f"{frame}.png" for frame in range(FRAMES)}
    senses = control.launches[0]
    assert senses.joint_velocities and not senses.record_gripper_closing


def test_seeds_lead_to_the_recorded_scenes(control: Any, tmp_path: Path) -> None:
    record(wanted(tmp_path, tasks=["turn_tap"], variations=[1]))
    simulator = RLBenchSimulator(SimulatorConfig(image_size=SIZE))
    for index, episode in enumerate(RLBenchDataset(tmp_path)):
        live, _ = simulator.reset("turn_tap", 1, scene_seed("turn_tap", 1, "train", index))
        np.testing.assert_array_equal(live.rgb["front"], episode.rgb["front"][0])
    simulator.close()


@upstream
def test_killed_and_resumed(control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(wanted(tmp_path / "whole"))
    original, saved = Image.Image.save, []

    def save(self: Any, place: Any, *rest: Any, **options: Any) -> None:
        saved.append(place)
        if len(saved) == 200:  # in the third of eight episodes
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, place, *rest, **options)

    def doomed() -> None:
        monkeypatch.setattr(Image.Image, "save", save)
        record(wanted(tmp_path / "killed"))

    process = multiprocessing.get_context("fork").Process(target=doomed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = sorted((tmp_path / "killed").rglob("low_dim_obs.pkl"))
    assert len(left) == 2 and len(list((tmp_path / "killed/train" / ASIDE).iterdir())) == 1
    assert len(RLBenchDataset(tmp_path / "killed")) == 2  # the half one does not count
    written = {file: file.stat().st_mtime_ns for file in left}
    assert len(record(wanted(tmp_path / "killed"))) == 6
    assert written == {file: file.stat().st_mtime_ns for file in left}
    shutil.rmtree(tmp_path / "killed/train" / ASIDE)  # fresh: a running process could be at it
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert record(wanted(tmp_path / "killed")) == []
    assert len(record(wanted(tmp_path / "killed", 3))) == 4


def tree(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


@upstream
def test_processes_share_the_work(control: Any, tmp_path: Path) -> None:
    record(wanted(tmp_path / "whole"))
    shares = [record(wanted(tmp_path / "shared"), rank, 3) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert len({one for share in shares for one in share}) == 8
    assert tree(tmp_path / "shared") == tree(tmp_path / "whole")


@upstream
def test_what_fails_is_said_when_the_others_are_done(
    control: Any, tmp_path: Path, draws: Any
) -> None:
    numbers = {i: draws("open_drawer", 0, "train", i, 9) for i in range(2)}
    control.failing_demos = limit = max(numbers[0][:8])
    needed = {i: 1 + next(n for n, d in enumerate(numbers[i]) if d >= limit) for i in range(2)}
    assert needed[0] > needed[1]
    one = wanted(tmp_path, tasks=["open_drawer"], variations=[0], attempts=needed[0] - 1)
    told = rf"1 of 2 .*: open_drawer 0 0 \(RuntimeError: Could not.* --attempts {2 * one.attempts} "
    for _ in range(2):  # the same scenes, and the other is there
        with pytest.raises(Failed, match=told.replace("1 of 2", r"1 of \d")) as e:
            record(one)
        assert len(e.value.lines) == 1 and control.running is None
    assert record(replace(one, attempts=needed[0])) == [Demonstration("open_drawer", 0, 0)]
    control.unplaceable = 1.0
    with pytest.raises(Failed, match=r"TaskEnvironmentError: Could not place the task"):
        record(wanted(tmp_path, 3))


@pytest.mark.parametrize("breaking", [False, True])
def test_a_scene_without_a_place_is_no_end(
    control: Any, tmp_path: Path, breaking: bool, draws: Any
) -> None:
    """RLBench raises it out of get_demos, and a task may be broken afterwards."""
    control.unplaceable, control.breaking = 0.5, breaking
    numbers = [draws("turn_tap", 1, "train", index, 10) for index in range(4)]
    assert sum(first[0] < 0.5 for first in numbers) in (1, 2, 3)
    assert len(record(wanted(tmp_path, 4, tasks=["turn_tap"], variations=[1]))) == 4
    control.unplaceable, control.breaking = 0.0, False
    simulator = RLBenchSimulator(SimulatorConfig(image_size=SIZE))
    for episode, drawn in zip(RLBenchDataset(tmp_path), numbers, strict=True):
        simulator.reset("", 0, 0, episode=episode)
        assert control.running.scene.drawn == next(number for number in drawn if number >= 0.5)
    simulator.close()


@upstream
def test_one_of_several_processes_ends_well(
    control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Where torchrun would end the others; but not where the user has something to mend."""
    control.failing_demos = 1.0
    asked = [str(tmp_path), "--tasks", "turn_tap", "--episodes", "1", "--attempts", "2"]
    assert main(asked) == 2
    assert "2 of 2 demonstrations failed" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(asked) == 0
    told = capsys.readouterr().err
    assert "mirrorlib: process 1 of 2: 1 of 1 demonstrations failed: turn_tap 1 0 (Run" in told
    assert "--attempts 4 " in told
    assert main([str(tmp_path), "--tasks", "tap"]) == 2


@upstream
def test_mistakes(control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no task 'turntap'; did you mean 'turn_tap'"):
        record(wanted(tmp_path, tasks=["open_drawer", "turntap"]))
    assert not control.launches  # said before anything is launched
    with pytest.raises(UserError, match="'turn_tap' has no variation 2; choose from 0 to 1"):
        record(wanted(tmp_path, tasks=["turn_tap"], variations=[1, 2]))
    (tmp_path / "train").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be written \(.*; make room, then run the same"):
        record(wanted(tmp_path))
    assert control.running is None


@upstream
def test_the_command(
    control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = [str(tmp_path), "--tasks", "turn_tap,turn_tap", "--split", "val"]
    more = ["--episodes", "1", "--image-size", "16", "--variations", "0, 1"]
    assert main([*asked, *more]) == 0
    assert "process 1 of 2 recorded 1 demonstrations in" in capsys.readouterr().out
    assert (tmp_path / "val/turn_tap/variation1/episodes/episode0/low_dim_obs.pkl").exists()
    assert main([str(tmp_path), "--tasks", "tap"]) == 2
    assert capsys.readouterr().err.startswith("mirrorlib: RLBench has no task 'tap'")
    for wrong in (
        ["--episodes", "0"],
        ["--attempts", "0"],
        ["--variations", "a"],
        ["--split", "all"],
        [],
    ):
        assert main([str(tmp_path), *(["--tasks", "turn_tap", *wrong] if wrong else [])]) == 2


@given(st.integers(0, 2**24 - 1))
def test_depth_is_coded_in_24_bits(code: int) -> None:
    """What the reader decodes differs from what was drawn by half a step at most."""
    share = np.array([[(code + offset) / (2**24 - 1) for offset in (-0.49, 0, 0.49)]])
    red, green, blue = np.moveaxis(coded(share).astype(int), -1, 0)
    assert (red * 65536 + green * 256 + blue == code).all()


def test_depth_beyond_the_planes_is_at_them() -> None:
    assert coded([[-0.1, 0.0, 1.0, 1.5]]).reshape(-1, 3).tolist() == [[0] * 3] * 2 + [[255] * 3] * 2
