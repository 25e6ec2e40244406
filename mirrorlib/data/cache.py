"""Record or read a source's episodes once, in parallel, and find them again.

The cache is keyed by the source's fingerprint and the layout, so changing either starts a new
folder beside the old. Whatever was finished when a recording stopped is kept and not redone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from mirrorlib.data.checksum import Identity, identity, verified
from mirrorlib.data.lock import alone_in
from mirrorlib.data.recording import failure_marker, in_processes, record_episode
from mirrorlib.data.store import FORMAT, Layout, RecordingError, StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import EpisodeKey, Source, Split
from mirrorlib.processes import own_cores

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Broken = Literal["skip"]
THREADS = 8
"""That read files to verify them: more keep a disk busy than cores sum."""
MENDS = (
    "`mirrorlib record RECIPE --rebuild` records anew what is damaged, data.broken=skip leaves it "
    "out"
)


class Cache:
    """The recorded episodes of one source under one layout.

    broken: what is done about a recorded file that is damaged and an episode that the source
    cannot read: `skip` leaves them out, None refuses them. skipped: what was left out, and why.
    whole: files that were found so, as they were then, with their stamps; they are not read again,
    by no cache that shares this.
    """

    def __init__(
        self, root: Path, name: str, source: Source, layout: Layout, broken: Broken | None = None
    ) -> None:
        self.source, self.layout, self.broken = source, layout, broken
        described = {
            "format": FORMAT,
            "source": name,
            "fingerprint": dict(source.fingerprint()),
            "layout": asdict(layout),
        }
        text = json.dumps(described, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = root / f"{name.replace(':', '-')}-{digest}"
        self.skipped: dict[EpisodeKey, str] = {}
        self.whole: dict[Path, tuple[Identity, str]] = {}
        self._anew: set[EpisodeKey] = set()
        self._description = json.dumps(described, indent=2, sort_keys=True, default=str)

    def path(self, key: EpisodeKey) -> Path:
        return self.folder / key.split / key.task / f"{key.variation}-{key.index}.safetensors"

    def missing(self, splits: Sequence[Split] = SPLITS) -> list[EpisodeKey]:
        """Keys that are to be recorded: neither recorded nor known to fail, nor skipped; and what
        `lacking` has found to be recorded anew."""
        return [
            key
            for split in splits
            for key in self.source.keys(split)
            if (key in self._anew or not self.path(key).exists())
            and not self.failed(key)
            and key not in self.skipped
        ]

    def failures(self, split: Split) -> int:
        """How many demonstrations of the split failed and were dropped."""
        return sum(self.failed(key) for key in self.source.keys(split))

    def failed(self, key: EpisodeKey) -> bool:
        """Whether the demonstration was tried and dropped."""
        return failure_marker(self.path(key)).exists()

    def episodes(self, split: Split) -> list[StoredEpisode]:
        """The recorded episodes of a split, in the source's order, but for those skipped."""
        keys = (key for key in self.source.keys(split) if key not in self.skipped)
        return [StoredEpisode(path) for path in map(self.path, keys) if path.exists()]

    def emptiness(self, split: Split) -> UserError:
        """Why a split has no episode."""
        lines = [self.skipped[key] for key in self.source.keys(split) if key in self.skipped]
        if not lines:
            return UserError(
                f"the source has no {split} episodes that succeeded; give source.{split} more"
            )
        more = f", and {len(lines) - 1} more" if lines[1:] else ""
        return UserError(f"every {split} episode was left out or failed: {lines[0]}{more}")

    @property
    def summary(self) -> str:
        """Where it is, and what it lacks."""
        failed = sum(self.failures(split) for split in SPLITS)
        broken = f", {len(self.skipped)} broken ones were left out" if self.skipped else ""
        return f"{self.folder} ({failed} failed and were dropped{broken})"

    def prepare(self) -> None:
        """Makes the folder. Raises UserError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "cache.json").write_text(self._description)
        except OSError as error:
            raise UserError(
                f"{self.folder}: demonstrations cannot be kept there ({error.strerror}); set "
                "data.cache or MIRRORLIB_CACHE"
            ) from error

    @contextmanager
    def lacking(
        self, progress: bool = True, splits: Sequence[Split] = SPLITS, rebuild: bool = False
    ) -> Iterator[list[EpisodeKey]]:
        """Verifies what is recorded of the splits and yields what is to be recorded, which no other
        process does within the block; one that does is waited for.

        rebuild: what is damaged, too. Raises UserError, unless that or `broken` says what is to be
        done, where a file is damaged.
        """
        lines = self._verify(progress, splits, rebuild)
        if not self.missing(splits):
            _tell(lines)
            yield []
            return
        self.prepare()
        with alone_in(self.folder) as waited:
            _tell(self._verify(progress, splits, rebuild) if waited else lines)
            yield self.missing(splits)
            self._anew.clear()

    def record(self, keys: Sequence[EpisodeKey], workers: int, progress: bool = True) -> None:
        """Record `keys` with `workers` spawned processes.

        Raises UserError where one cannot be recorded and, unless such are skipped, where the source
        cannot read one; on Ctrl-C what is finished stays.
        """
        if not keys:
            return
        self.prepare()
        jobs = [(key, self.path(key)) for key in keys]
        with closing(in_processes(record_episode, jobs, workers, self.source, self.layout)) as done:
            bar = tqdm(done, "recording", len(jobs), unit="ep", disable=not progress)
            try:
                failed = 0
                for (key, _), future in bar:
                    error = future.exception()
                    if isinstance(error, UserError) and not isinstance(error, RecordingError):
                        self._skip(key, error)
                    else:
                        failed += not future.result()
                    if failed or self.skipped:
                        bar.set_postfix(failed=failed, skipped=len(self.skipped))
            except BrokenProcessPool as error:
                raise UserError(
                    f"a recording process died ({error}); the episodes so far are kept in "
                    f"{self.folder}: run again, with fewer data.workers if memory ran out"
                ) from error

    def _skip(self, key: EpisodeKey, error: UserError) -> None:
        """Raises the error, unless broken episodes are to be skipped."""
        line = " ".join(error.lines)
        if self.broken != "skip":
            raise UserError(
                f"{line}; or leave such episodes out with data.broken=skip, and see all of them "
                "with mirrorlib data check"
            ) from error
        self.skipped[key] = line
        _tell([f"left out: {line}"])

    def _verify(self, progress: bool, splits: Sequence[Split], rebuild: bool) -> list[str]:
        """Notes what is to be recorded anew and what is to be skipped. Returns lines that tell of
        it. Raises UserError."""
        self.skipped.clear()
        damaged, changed = self.faults(progress, splits)
        self._anew = set(changed)
        lines = []
        if changed:
            lines.append(
                f"{len(changed)} episodes are read anew: the source's files have changed since "
                f"(such as those of {changed[0]})"
            )
        if rebuild:
            self._anew.update(damaged)
            return lines + [f"recorded anew: {line}" for line in damaged.values()]
        if damaged and self.broken is None:
            more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise UserError(f"{next(iter(damaged.values()))}{more}; {MENDS}")
        self.skipped |= damaged
        return lines + [f"left out: {line}" for line in damaged.values()]

    def faults(
        self, progress: bool = True, splits: Sequence[Split] = SPLITS
    ) -> tuple[dict[EpisodeKey, str], list[EpisodeKey]]:
        """Reads every recorded file. Returns a line for each that is damaged, and those of which
        the source's files have changed since."""
        keys = [k for split in splits for k in self.source.keys(split) if self.path(k).exists()]
        pool = ThreadPoolExecutor(min(THREADS, 2 * own_cores()))
        damaged, changed = {}, []
        try:
            looks = tqdm(
                pool.map(self._look, keys), "verifying", len(keys), unit="ep", delay=1,
                disable=not progress,
            )  # fmt: skip
            for key, look in zip(keys, looks, strict=True):
                if isinstance(look, str):
                    damaged[key] = look
                elif not look:
                    changed.append(key)
        finally:
            pool.shutdown(cancel_futures=True)
        return damaged, changed

    def _look(self, key: EpisodeKey) -> bool | str:
        """What is wrong with an episode's file, or whether its source is as it was."""
        path = self.path(key)
        try:
            now = identity(path)
        except FileNotFoundError:  # it has gone meanwhile, and is missing
            return True
        try:
            before, stamp = self.whole.get(path, (None, ""))
            if before != now:
                stamp = verified(path)
                self.whole[path] = now, stamp
            return stamp == self.source.stamp(key)
        except UserError as error:
            return " ".join(error.lines)


def _tell(lines: Iterable[str]) -> None:
    """On stderr, above a progress bar."""
    for line in lines:
        tqdm.write(f"mirrorlib: {line}", file=sys.stderr)
