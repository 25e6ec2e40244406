"""A source that reads files, the cache of what it gives, and damage to that."""

from __future__ import annotations

import os
from pathlib import Path

from fakes import FakeSource

from mirrorlib.data.cache import Broken, Cache
from mirrorlib.data.store import Layout
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode, EpisodeKey

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


def complete(
    source: FakeSource, folder: Path, broken: Broken | None = None, rebuild: bool = False
) -> Cache:
    """What a run does before it trains."""
    cache = Cache(folder / "cache", "files", source, LAYOUT, broken)
    with cache.lacking(progress=False, rebuild=rebuild) as missing:
        cache.record(missing, workers=1, progress=False)
    return cache


def flip(path: Path) -> bytes:
    """Returns what it held."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content
