"""`mirrorlib data check`: everything that is broken under one root, at once."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirrorlib.cli import main
from mirrorlib.data import check
from mirrorlib.data.store import write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import DataProperties, Episode, EpisodeKey, Source, Split
from mirrorlib_rlbench import RLBenchDataset

Writer = Any
CAMERAS = "cameras=[front, wrist]"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading in this process, which takes no start."""

    def in_processes(work: Any, jobs: list[Any], workers: int, *shared: Any) -> Any:
        for job in jobs:
            future: Future[Any] = Future()
            try:
                future.set_result(work(*shared, *job))
            except SystemExit:
                future.set_exception(BrokenProcessPool())
            yield job, future

    monkeypatch.setattr(check, "in_processes", in_processes)


@pytest.fixture
def root(write: Writer, tmp_path: Path) -> Path:
    """Five episodes of a task, and one of another split."""
    for index in range(5):
        write(f"train/jar/variation0/episodes/episode{index}")
    write("test/jar/variation1/episodes/episode0", variation=1)
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], str]:
    """Exit code, lines of output and of errors, without progress bars."""
    code = main(["data", "check", *argv])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()[-1]


def break_all(root: Path) -> list[str]:
    """What each line must begin with."""
    train = root / "train/jar/variation0/episodes"
    (train / "episode0/front_depth/4.png").unlink()
    short = train / "episode1/low_dim_obs.pkl"
    short.write_bytes(short.read_bytes()[:-200])
    Image.new("RGB", (9, 7)).save(train / "episode3/wrist_rgb/2.png")
    for frame in (7, 8):
        (train / f"episode4/front_rgb/{frame}.png").write_text("no picture")
    told = root / "test/jar/variation1/variation_descriptions.pkl"
    told.write_bytes(pickle.dumps(["open"])[:-3])
    return [
        f"{train}/episode0/front_depth/4.png: missing",
        f"{train}/episode1/low_dim_obs.pkl: a damaged pickle",
        f"{train}/episode3/wrist_rgb/2.png: 9 x 7 pixels, but 0.png beside it has 12 x 12",
        f"{train}/episode4/front_rgb/7.png: a damaged picture",
        f"{told}: a damaged pickle",
    ]


def test_every_broken_episode_is_told_at_once(
    root: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = lines(capsys, str(root), CAMERAS)
    assert (code, told) == (0, ["6 of 6 episodes are read from files; 0 problems"])
    expected = break_all(root)
    code, told, error = lines(capsys, str(root), CAMERAS, "--source", "rlbench")
    assert code == 2 and len(told) == len(expected) + 1
    for line, begin in zip(told, expected, strict=False):
        assert line.startswith(begin)
    assert told[3].endswith("(and 1 more pictures of the episode)")
    assert error.startswith(f"mirrorlib: {root}: 5 problems with the source") and "skip" in error


def test_it_reads_in_other_processes(root: Path) -> None:
    break_all(root)
    source = RLBenchDataset(root, cameras=("front", "wrist"))
    target = check.Target(source, workers=1)
    keys = source.keys("test")
    assert "a damaged pickle" in (check._read(target, keys)[keys[0]] or "")


def test_a_split_that_cannot_be_listed_is_told(
    root: Path, write: Writer, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write("val/jar/all_variations/episodes/episode0", vintage="peract")
    (folder / "variation_number.pkl").write_bytes(b"no pickle")
    code, told, _ = lines(capsys, str(root), CAMERAS)
    assert code == 2 and told[0].startswith(f"{folder}/variation_number.pkl: ")
    assert told[1] == "6 of 6 episodes are read from files; 1 problems"


def test_what_cannot_be_checked(
    tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = lines(capsys, str(tmp_path))
    assert code == 2 and "holds no folder, but none of train" in error
    (tmp_path / "train").mkdir()
    code, _, error = lines(capsys, str(tmp_path))
    assert code == 2 and error.endswith("no episode was found that is read from files")
    code, _, error = lines(capsys, str(tmp_path), "--source", "rlbenhc")
    assert code == 2 and "did you mean 'rlbench'?" in error
    code, _, error = lines(capsys, str(tmp_path / "absent.yaml"))
    assert code == 2 and "absent.yaml" in error


def test_a_recipe_has_its_cache_verified(
    root: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(Path(__file__).parents[3] / "recipes/rlbench/small.yaml")
    changes = [
        f"source.root={root}", "source.tasks=null", "source.cameras=[front, wrist]",
        f"data.cache={root}/cache", "data.step_cameras=null", "data.clip_cameras=[front]",
    ]  # fmt: skip
    cache = check._recipe(recipe, changes).cache
    assert cache is not None
    for key in cache.missing():
        stamp = cache.source.stamp(key)
        write_episode(cache.path(key), cache.source.episode(key), cache.layout, stamp)
    code, told, _ = lines(capsys, recipe, *changes)
    assert code == 0 and told[-1].startswith(f"{cache.folder}: 0 damaged; 0 to be read anew")

    first, second, *_ = cache.source.keys("train")
    (root / f"train/jar/variation0/episodes/episode{second.index}/front_rgb/9.txt").touch()
    content = bytearray(cache.path(first).read_bytes())
    content[-1] ^= 1
    cache.path(first).write_bytes(content)
    code, told, error = lines(capsys, recipe, *changes)
    assert code == 2 and told[0].startswith(f"{cache.path(first)}: a damaged file")
    assert told[-1].startswith(f"{cache.folder}: 1 damaged; 1 to be read anew")
    assert "0 problems with the source, 1 damaged recordings" in error


class Folders(Source):
    """Episodes of no file, unless told otherwise: one that is no UserError to read, one that ends
    the process."""

    def __init__(self, stamp: str = "") -> None:
        self.stamped = stamp

    def stamp(self, key: EpisodeKey) -> str:
        return self.stamped

    properties = DataProperties((), 0, (0, 0, 0, 1, 1, 1))

    def keys(self, split: Split) -> list[EpisodeKey]:
        return [EpisodeKey(split, "task", 0, 0)]

    def episode(self, key: EpisodeKey) -> Episode:
        if key.split == "train":
            raise ValueError("no\nnumber")
        if key.split == "test":
            raise SystemExit
        raise UserError("it was recorded")

    def fingerprint(self) -> dict[str, Any]:
        return {}


def test_episodes_of_no_file_are_not_made(here: None) -> None:
    source = Folders()
    assert check._read(check.Target(source, 1), source.keys("val")) == {source.keys("val")[0]: None}


def test_other_faults_of_a_source_and_a_dead_process_do_not_end_it(
    here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = check.Target(Folders("now"), workers=2)
    monkeypatch.setattr(check, "_recipe", lambda *_: target)
    assert main(["data", "check", "made-up"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "train/task/0/0: ValueError: no number",
        "it was recorded",
        "2 of 3 episodes are read from files; 2 problems",
    ]
    first, second = err.splitlines()[-2:]
    assert first.startswith("mirrorlib: made-up: 2 problems with the source")
    assert "process died, and 1 episodes were not read" in second and "(test/task/0/0)" in second


class Unlisted(Folders):
    """No split can be listed."""

    def keys(self, split: Split) -> list[EpisodeKey]:
        raise OSError(f"{split} is gone")


def test_what_cannot_be_listed_is_told_of_every_split() -> None:
    with pytest.raises(UserError) as caught:
        check._keys(Unlisted())
    assert caught.value.lines == [
        f"{split}: OSError: {split} is gone" for split in ("train", "val", "test")
    ]
