"""Damaged recordings, full disks, sources that change or are broken, two processes on a cache."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeSource
from file_source import LAYOUT, FileSource, complete, flip

from mirrorlib.data import cache as caches
from mirrorlib.data import lock, store
from mirrorlib.data.cache import Broken, Cache
from mirrorlib.data.checksum import verified
from mirrorlib.data.lock import alone_in
from mirrorlib.data.store import Layout
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode, EpisodeKey, Split


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[EpisodeKey]:
    """Recording in this process, which takes no start. What was recorded, in order."""
    recorded = []

    def in_processes(
        work: Callable[..., Any], jobs: list[Any], workers: int, *shared: Any
    ) -> Iterator[Any]:
        for job in jobs:
            future: Future[Any] = Future()
            try:
                future.set_result(work(*shared, *job))
                recorded.append(job[0])
            except UserError as error:
                future.set_exception(error)
            yield job, future

    monkeypatch.setattr(caches, "in_processes", in_processes)
    return recorded


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    return FileSource(tmp_path / "source")


def test_damaged_recordings_are_refused_rebuilt_or_skipped(
    source: FileSource, tmp_path: Path, here: list[EpisodeKey], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = complete(source, tmp_path)
    first, second, *_ = source.keys("train")
    whole = flip(cache.path(first))
    with pytest.raises(UserError) as caught:
        complete(source, tmp_path)
    (line,) = caught.value.lines
    assert line.startswith(f"{cache.path(first)}: a damaged file")
    assert "`mirrorlib record RECIPE --rebuild` records" in line and "data.broken=skip" in line
    flip(cache.path(second))
    with pytest.raises(UserError, match=r"its checksum differs.*, and 1 more; "):
        complete(source, tmp_path)

    capsys.readouterr()
    skipping = complete(source, tmp_path, "skip")
    assert [stored.name for stored in skipping.episodes("train")] == [
        str(key) for key in source.keys("train")[2:]
    ]
    assert set(skipping.skipped) == {first, second} and not skipping.missing()
    assert "2 broken ones were left out" in skipping.summary
    assert capsys.readouterr().err.count("left out: ") == 2

    here.clear()
    rebuilt = complete(source, tmp_path, rebuild=True)
    assert here == [first, second] and not rebuilt.missing() and not rebuilt.skipped
    assert cache.path(first).read_bytes() == whole
    assert len(complete(source, tmp_path).episodes("train")) == 4


def test_what_the_source_cannot_read_is_refused_or_skipped(
    source: FileSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = source.keys("train")
    source.change(first, "broken")
    for rebuild in (False, True):
        with pytest.raises(UserError, match=r"fetch it again; or leave .* data\.broken=skip"):
            complete(source, tmp_path, rebuild=rebuild)
    cache = complete(source, tmp_path, "skip")
    assert [stored.name for stored in cache.episodes("train")] == [str(key) for key in others]
    assert cache.skipped == {first: f"{source.file(first)}: broken; fetch it again"}
    assert "1 broken ones were left out" in cache.summary
    assert f"left out: {source.file(first)}: broken" in capsys.readouterr().err
    source.change(first, "mended")
    assert len(complete(source, tmp_path).episodes("train")) == 4


def test_what_has_changed_is_read_anew(
    source: FileSource, tmp_path: Path, here: list[EpisodeKey], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = complete(source, tmp_path)
    assert len(here) == 12
    here.clear()
    complete(source, tmp_path)
    assert not here
    key = source.keys("val")[2]
    source.change(key, "other")
    complete(source, tmp_path)
    assert here == [key] and f"1 episodes are read anew: {key}" in re.sub(
        r"the source.*of (.*)\)", r"\1", capsys.readouterr().err
    )
    complete(source, tmp_path)
    assert here == [key]
    source.change(key, "broken")
    assert cache.path(key).exists()
    assert len(complete(source, tmp_path, "skip").episodes("val")) == 3


def test_a_rebuilt_demonstration_may_fail(tmp_path: Path) -> None:
    cache = complete(FakeSource(count=1), tmp_path)
    key = cache.source.keys("train")[0]
    flip(cache.path(key))
    failing = FakeSource(count=1, failing=[0])
    rebuilt = complete(failing, tmp_path, rebuild=True)
    assert rebuilt.failures("train") == 1 and len(rebuilt.episodes("train")) == 3


def test_another_recording_is_waited_for_and_named(
    source: FileSource,
    tmp_path: Path,
    here: list[EpisodeKey],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, damaged, changed = lock._told, *source.keys("test")[:2]
    first = complete(source, tmp_path)
    whole = flip(first.path(damaged))
    source.change(changed, "other")
    here.clear()
    inside, done = threading.Event(), threading.Event()

    def record() -> None:
        with first.lacking(progress=False, rebuild=True) as missing:
            inside.set()
            done.wait(20)
            first.record(missing, workers=1, progress=False)

    def waiting(holder: Path) -> str:
        try:
            return told(holder)
        finally:
            done.set()

    monkeypatch.setattr(lock, "_told", waiting)

    other = threading.Thread(target=record)
    other.start()
    assert inside.wait(20)
    capsys.readouterr()
    second = complete(source, tmp_path, "skip")
    other.join()
    lines = capsys.readouterr().err
    assert f"waiting for process {os.getpid()} on {socket.gethostname()}, which records" in lines
    assert here == [damaged, changed] and not second.missing()
    assert not second.skipped and "left out" not in lines and "read anew" not in lines
    assert first.path(damaged).read_bytes() == whole


def test_a_folder_without_locks_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"cannot be locked .* set data\.cache"), alone_in(tmp_path):
        pass


@pytest.mark.parametrize("broken", [None, "skip"])
def test_a_full_disk_is_told_and_never_skipped(
    source: FileSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Broken | None
) -> None:
    written = []

    def flush(descriptor: int) -> None:
        if ".safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            written.append(descriptor)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", flush)
    with pytest.raises(UserError) as caught:
        complete(source, tmp_path, broken)
    cache = Cache(tmp_path / "cache", "files", source, LAYOUT)
    path = cache.path(source.keys("train")[3])
    assert caught.value.lines == [
        f"{path}: cannot be written (No space left on device); make room and run again: what is "
        "recorded is kept"
    ]
    assert len(written) == 4 and len(cache.missing()) == 9
    assert not list(cache.folder.rglob("*.partial"))


def test_a_failure_that_cannot_be_noted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> None:
        if path.suffix == ".failed":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(UserError, match=r"0-0\.failed: cannot be written \(No space .* make room"):
        complete(FakeSource(count=1, failing=[0]), tmp_path, "skip")


class Uneven(FileSource):
    """One camera's pictures are smaller."""

    def episode(self, key: EpisodeKey) -> Episode:
        made = super().episode(key)
        return replace(made, rgb={**made.rgb, "wrist": made.rgb["wrist"][:, :4]})


@pytest.mark.parametrize(
    ("kind", "cameras", "told"),
    [
        (FileSource, ("front", "rear"), "no camera 'rear'.*change data.clip_cameras"),
        (Uneven, ("front", "wrist"), "cameras of different sizes.*choose"),
    ],
)
def test_what_no_episode_is_to_blame_for_is_never_skipped(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: type[FileSource],
    cameras: tuple[str, ...],
    told: str,
) -> None:
    source = kind(tmp_path / "source")
    cache = Cache(tmp_path / "cache", "files", source, Layout(2, ("front",), cameras), "skip")
    with cache.lacking(progress=False) as missing, pytest.raises(UserError, match=told) as caught:
        cache.record(missing, workers=1, progress=False)
    assert "data.broken" not in str(caught.value)
    assert not cache.skipped and not capsys.readouterr().err


def test_a_split_of_which_nothing_is_left_says_why(source: FileSource, tmp_path: Path) -> None:
    for key in source.keys("val"):
        source.change(key, "broken")
    cache = complete(source, tmp_path, "skip")
    told = f"every val episode was left out or failed: {source.file(source.keys('val')[0])}: broken"
    assert str(cache.emptiness("val")).startswith(told)
    assert str(cache.emptiness("val")).endswith("; fetch it again, and 3 more")
    assert "give source.test more" in str(cache.emptiness("test"))


def test_a_second_look_keeps_nothing_of_the_first(source: FileSource, tmp_path: Path) -> None:
    cache = complete(source, tmp_path)
    key = source.keys("train")[0]
    whole, cache.broken = flip(cache.path(key)), "skip"
    with cache.lacking(progress=False):
        assert list(cache.skipped) == [key]
    cache.path(key).write_bytes(whole)
    with cache.lacking(progress=False) as missing:
        assert not cache.skipped and not missing


def test_only_the_splits_asked_for_are_verified_and_whole_files_once(
    source: FileSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(source, tmp_path)
    read = list[Path]()

    def noted(path: Path) -> str:
        read.append(path)
        return verified(path)

    monkeypatch.setattr(caches, "verified", noted)
    whole: dict[Path, Any] = {}

    def look(*splits: Split) -> Cache:
        cache = Cache(tmp_path / "cache", "files", source, LAYOUT, "skip")
        cache.whole = whole
        read.clear()
        with cache.lacking(progress=False, splits=splits):
            return cache

    cache = look("train")
    assert sorted(read) == sorted(map(cache.path, source.keys("train")))
    look("train", "val")
    assert sorted(read) == sorted(map(cache.path, source.keys("val")))
    key = source.keys("train")[1]
    flip(cache.path(key))
    assert list(look("train").skipped) == [key] and read == [cache.path(key)]
    flip(cache.path(key))
    source.change(key, "other")
    with look("val").lacking(progress=False, splits=["train"]) as missing:
        assert missing == [key]
