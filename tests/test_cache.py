"""Damaged recordings, sources that change or cannot be read, and two processes on one cache."""

from __future__ import annotations

import os
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeSource, episode

from mirrorlib.data import cache as caches
from mirrorlib.data.cache import Broken, Cache
from mirrorlib.data.checksum import verified
from mirrorlib.data.lock import alone_in
from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode, EpisodeKey

KEY = EpisodeKey("train", "push", 1, 0)
LAYOUT = Layout(clip_frames=2, clip_cameras=("front",), step_cameras=("wrist", "front"))


class FileSource(FakeSource):
    """As FakeSource, but an episode is read from a small file, which may be broken."""

    def __init__(self, root: Path) -> None:
        super().__init__(count=1)
        self.root = root
        for split in ("train", "val", "test"):
            for key in self.keys(split):
                self.file(key).parent.mkdir(parents=True, exist_ok=True)
                self.file(key).write_text("whole")

    def file(self, key: EpisodeKey) -> Path:
        return self.root / str(key)

    def episode(self, key: EpisodeKey) -> Episode:
        if self.file(key).read_text() == "broken":
            raise UserError(f"{self.file(key)}: broken; fetch it again")
        return super().episode(key)

    def stamp(self, key: EpisodeKey) -> str:
        return str(self.file(key).stat().st_mtime_ns)

    def change(self, key: EpisodeKey, content: str) -> None:
        before = self.file(key).stat().st_mtime_ns
        self.file(key).write_text(content)
        os.utime(self.file(key), ns=(before + 1, before + 1))


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


def complete(source: FakeSource, folder: Path, broken: Broken | None = None) -> Cache:
    """What a run does before it trains."""
    cache = Cache(folder / "cache", "files", source, LAYOUT, broken)
    with cache.lacking(progress=False) as missing:
        cache.record(missing, workers=1, progress=False)
    return cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train" / "push" / "1-0.safetensors"
    write_episode(path, episode(KEY), LAYOUT, stamp="as it was")
    return path


def test_the_checksum_is_of_the_whole_file(file: Path) -> None:
    assert verified(file) == "as it was"
    content = file.read_bytes()
    (told,) = re.findall(rb'checksum\\": \\"(\w{8})\\"', content)
    assert content.count(told) == 1
    assert int(told, 16) == zlib.crc32(content.replace(told, b"00000000"))


def test_one_flipped_bit_anywhere_is_found(file: Path) -> None:
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    places = [*range(60), *rng.choice(len(content), 200), len(content) - 1]
    for place, bit in zip(places, rng.integers(0, 8, len(places)), strict=True):
        content[place] ^= 1 << bit
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            verified(file)
        assert caught.value.lines[0].startswith(f"{file}: a damaged file of recorded data (")
        content[place] ^= 1 << bit
    file.write_bytes(content)
    verified(file)


def test_cut_and_lengthened_files_are_found(file: Path) -> None:
    content = file.read_bytes()
    for harmed in (b"", content[:5], content[:300], content[:-1], content[:-64], content + b"\0"):
        file.write_bytes(harmed)
        with pytest.raises(UserError, match="a damaged file"):
            verified(file)
        if len(harmed) < len(content):
            with pytest.raises(UserError, match=r"not a whole recorded episode .*broken=rebuild"):
                StoredEpisode(file)
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        verified(file)


def test_files_that_changed_places_are_found(file: Path) -> None:
    other = file.with_name("1-1.safetensors")
    write_episode(other, episode(KEY), LAYOUT)
    file.rename(file.with_name("kept"))
    other.rename(file)
    with pytest.raises(UserError, match=r"it was written as train/push/1-1\.safetensors"):
        verified(file)


def test_a_text_like_a_checksum_is_no_checksum(file: Path) -> None:
    demonstration = episode(KEY)
    for text in ('"checksum": "00000000"', r"\"checksum\": \"00000000"):
        demonstration.descriptions[0] = text  # type: ignore[index]
        write_episode(file, replace(demonstration, task=text), LAYOUT)
        verified(file)
    assert StoredEpisode(file).descriptions == demonstration.descriptions


def flip(path: Path) -> bytes:
    """Returns what it held."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


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
    assert "data.broken=rebuild" in line and "data.broken=skip" in line
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
    rebuilt = complete(source, tmp_path, "rebuild")
    assert here == [first, second] and not rebuilt.missing() and not rebuilt.skipped
    assert cache.path(first).read_bytes() == whole
    assert len(complete(source, tmp_path).episodes("train")) == 4


def test_what_the_source_cannot_read_is_refused_or_skipped(
    source: FileSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = source.keys("train")
    source.change(first, "broken")
    for broken in (None, "rebuild"):
        with pytest.raises(UserError, match=r"fetch it again; or leave .* data\.broken=skip"):
            complete(source, tmp_path, broken)
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
    rebuilt = complete(failing, tmp_path, "rebuild")
    assert rebuilt.failures("train") == 1 and len(rebuilt.episodes("train")) == 3


def test_another_recording_is_waited_for_and_named(
    source: FileSource, tmp_path: Path, here: list[EpisodeKey], capsys: pytest.CaptureFixture[str]
) -> None:
    complete(source, tmp_path)
    first, changed = Cache(tmp_path / "cache", "files", source, LAYOUT), source.keys("test")[0]
    source.change(changed, "other")
    here.clear()
    inside, done = threading.Event(), threading.Event()

    def record() -> None:
        with first.lacking(progress=False) as missing:
            inside.set()
            done.wait(20)
            first.record(missing, workers=1, progress=False)

    other = threading.Thread(target=record)
    other.start()
    assert inside.wait(20)
    threading.Timer(0.3, done.set).start()
    second = complete(source, tmp_path)
    other.join()
    told = capsys.readouterr().err
    assert f"waiting for process {os.getpid()} on {socket.gethostname()}, which records" in told
    assert here == [changed] and not second.missing()


def test_a_folder_without_locks_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"cannot be locked .* set data\.cache"), alone_in(tmp_path):
        pass
