"""What is noticed of an episode's files once it is in the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirrorlib.data.cache import Cache
from mirrorlib.data.store import Layout, write_episode
from mirrorlib_rlbench import RLBenchDataset

Writer = Any
CAMERAS = ("front", "wrist")
PLACE = "train/jar/{}/episodes/episode0"


def stamp(root: Path, cameras: tuple[str, ...] = CAMERAS) -> str:
    source = RLBenchDataset(root, cameras=cameras)
    return source.stamp(source.keys("train")[0])


def touch(file: Path) -> None:
    """As a copy onto it of something of the same size."""
    now = file.stat().st_mtime_ns
    os.utime(file, ns=(now, now + 1))


def lengthen(file: Path) -> None:
    at = file.stat()
    with file.open("ab") as opened:
        opened.write(b"0")
    os.utime(file, ns=(at.st_mtime_ns, at.st_mtime_ns))


def duplicate(file: Path) -> None:
    shutil.copy2(file, file.with_name("9.png"))


@pytest.mark.parametrize("layout", ["variation0", "all_variations"])
@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("low_dim_obs.pkl", touch),
        ("low_dim_obs.pkl", lengthen),
        ("front_rgb/4.png", touch),
        ("wrist_depth/8.png", lengthen),
        ("wrist_rgb/3.png", duplicate),
        ("front_depth/2.png", Path.unlink),
    ],
)
def test_every_file_counts(
    write: Writer, tmp_path: Path, layout: str, name: str, harm: Callable[[Path], None]
) -> None:
    folder = write(PLACE.format(layout))
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before
    harm(folder / name)
    assert stamp(tmp_path) != before


def test_descriptions_and_variation_count(write: Writer, tmp_path: Path) -> None:
    upstream, peract = write(PLACE.format("variation0")), write("b/all_variations/episodes/e")
    told = upstream.parents[1] / "variation_descriptions.pkl"
    before = stamp(tmp_path)
    touch(told)
    assert stamp(tmp_path) != before
    shutil.rmtree(tmp_path / "train")
    peract.rename(tmp_path / "moved")
    place = tmp_path / PLACE.format("all_variations")
    place.parent.mkdir(parents=True)
    (tmp_path / "moved").rename(place)
    for name in ("variation_number.pkl", "variation_descriptions.pkl"):
        before = stamp(tmp_path)
        touch(place / name)
        assert stamp(tmp_path) != before


def test_other_cameras_do_not_count(write: Writer, tmp_path: Path) -> None:
    folder = write(PLACE.format("variation0"))
    before = stamp(tmp_path)
    shutil.rmtree(folder / "left_shoulder_rgb")
    assert stamp(tmp_path) == before != stamp(tmp_path, (*CAMERAS, "left_shoulder"))


def test_the_cache_reads_a_changed_episode_anew(write: Writer, tmp_path: Path) -> None:
    folder = write(PLACE.format("variation0"))
    write("train/jar/variation1/episodes/episode0", variation=1)
    layout = Layout(2, ("front",), CAMERAS)

    def cache(cameras: tuple[str, ...] = CAMERAS) -> Cache:
        return Cache(
            tmp_path / "cache", "rlbench", RLBenchDataset(tmp_path, cameras=cameras), layout
        )

    first = cache()
    for key in first.missing():
        stamp = first.source.stamp(key)
        write_episode(first.path(key), first.source.episode(key), layout, stamp)
    with cache().lacking(progress=False) as missing:
        assert not missing
    touch(folder / "wrist_rgb" / "0.png")
    with cache().lacking(progress=False) as missing:
        assert [str(key) for key in missing] == ["train/jar/0/0"]
    with cache(("wrist", "front")).lacking(progress=False) as missing:
        assert len(missing) == 2
