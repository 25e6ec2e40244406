"""Demonstrations of several recorders in one folder."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib_rlbench import record as recording
from mirrorlib_rlbench.config import CAMERAS
from mirrorlib_rlbench.record import Wanted, record
from mirrorlib_rlbench.writing import ASIDE, SETTINGS, write_episode

SIZE = 16
upstream = pytest.mark.parametrize("vintage", ["upstream"], indirect=True)


def demo(colour: int, frames: int) -> Any:
    rgb, depth = np.full((SIZE, SIZE, 3), colour, np.uint8), np.zeros((SIZE, SIZE))
    images = {f"{c}_{kind}": im for c in CAMERAS for kind, im in (("rgb", rgb), ("depth", depth))}
    return [SimpleNamespace(**images) for _ in range(frames)]


def colours(folder: Path) -> list[int]:
    files = sorted(folder.glob("*_rgb/*.png"))
    return [int(np.array(Image.open(file))[0, 0, 0]) for file in files]


@pytest.mark.parametrize("inner", [2, 4])
def test_two_at_one_episode_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: int
) -> None:
    """The second begins while the first writes, and is done before it."""
    folder, original, saved = tmp_path / "t/variation0/episodes/episode0", Image.Image.save, []

    def save(self: Any, place: Any) -> None:
        saved.append(place)
        original(self, place)
        if len(saved) == 12:
            assert write_episode(demo(7, inner), folder, tmp_path)

    monkeypatch.setattr(Image.Image, "save", save)
    assert not write_episode(demo(3, 3), folder, tmp_path)
    assert colours(folder) == [7] * inner * len(CAMERAS)
    assert not any((tmp_path / ASIDE).iterdir())


def test_all_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "t/variation0/episodes/episode0", list[int]()

    def sync() -> None:
        assert not folder.exists()
        seen.append(len(list((tmp_path / ASIDE).rglob("*.p*"))))

    monkeypatch.setattr(os, "sync", sync)
    before = os.umask(0o022)
    try:
        assert write_episode(demo(3, 3), folder, tmp_path)
    finally:
        os.umask(before)
    assert seen == [3 * 10 + 1]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755  # others may read it


@upstream
def test_what_another_recorded_meanwhile_stays(
    control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(tmp_path, "train", ["turn_tap"], 3, [0], SIZE)
    original, tried = write_episode, list[Path]()

    def write(made: Any, folder: Path, split: Path) -> bool:
        tried.append(folder)
        if len(tried) == 1:
            for other in (folder, folder.with_name("episode1")):
                original(demo(7, 2), other, split)
        return original(made, folder, split)

    monkeypatch.setattr(recording, "write_episode", write)
    assert [one.index for one in record(wanted)] == [2]
    assert [folder.name for folder in tried] == ["episode0", "episode2"]
    assert {*colours(tried[0]), *colours(tried[0].with_name("episode1"))} == {7}


@upstream
def test_what_was_left_aside_is_cleared_when_old(control: Any, tmp_path: Path) -> None:
    old, new = (tmp_path / "train" / ASIDE / name / "whole" for name in ("old", "new"))
    for place in (old, new):
        place.mkdir(parents=True)
    day = time.time() - 25 * 3600
    os.utime(old.parent, (day, day))
    record(Wanted(tmp_path, "train", ["turn_tap"], 1, [0], SIZE))
    assert new.exists() and not old.parent.exists()


@upstream
def test_a_split_has_one_kind_of_pictures(control: Any, tmp_path: Path) -> None:
    wanted = Wanted(tmp_path, "train", ["turn_tap"], 1, [0], SIZE)
    record(wanted)
    for changes in ({"image_size": 32}, {"renderer": "opengl3"}):
        other: Any = {"image_size": SIZE, "episodes": 2} | changes
        with pytest.raises(
            UserError, match=r"recording.json: what is there was .*, not .*; ask"
        ) as e:
            record(Wanted(tmp_path, "train", ["turn_tap"], **other))
        assert len(e.value.lines) == 1 and len(control.launches) == 1
    assert len(record(Wanted(tmp_path, "test", ["turn_tap"], 1, [0], 32))) == 1  # another split
    (tmp_path / "train" / SETTINGS).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        record(wanted)


@upstream
def test_what_failed_fixes_no_settings(control: Any, tmp_path: Path) -> None:
    control.failing_demos = 1.0
    with pytest.raises(recording.Failed):
        record(Wanted(tmp_path, "train", ["turn_tap"], 1, [0], SIZE))
    control.failing_demos = 0.0
    assert record(Wanted(tmp_path, "train", ["turn_tap"], 1, [0], 32))
