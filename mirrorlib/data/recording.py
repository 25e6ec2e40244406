"""What worker processes do with a source's episodes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from mirrorlib.data.store import Layout, room_for, write_episode
from mirrorlib.errors import DemonstrationFailed
from mirrorlib.interfaces import EpisodeKey, Source
from mirrorlib.processes import deaf_to_ctrl_c, end_with_parent, hashing_alike

Job = TypeVar("Job", bound=tuple[Any, ...])
Result = TypeVar("Result")


def in_processes(
    work: Callable[..., Result], jobs: Sequence[Job], workers: int, *shared: Any
) -> Generator[tuple[Job, Future[Result]]]:
    """`work(*shared, *job)` for every job, in spawned processes; yields jobs as they end.

    Closing the generator waits for what has begun and drops the rest. Raises BrokenProcessPool
    where a process dies.
    """
    pool = ProcessPoolExecutor(
        max(1, min(workers, len(jobs))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=shared,
    )
    begun: dict[Future[Result], Job] = {}
    try:
        with deaf_to_ctrl_c(), hashing_alike():
            begun.update((pool.submit(_call, work, job), job) for job in jobs)
        for future in as_completed(begun):
            yield begun[future], future
    finally:
        for future in begun:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


_shared: list[Any] = []


def _start_worker(*shared: Any) -> None:
    end_with_parent()
    _shared.extend(shared)


def _call(work: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    return work(*_shared, *job)


def record_episode(source: Source, layout: Layout, key: EpisodeKey, path: Path) -> bool:
    """Whether the demonstration succeeded and was written. Raises UserError where the source
    cannot read the episode, RecordingError where that is not the matter."""
    marker = failure_marker(path)
    try:
        stamp = source.stamp(key)  # before: a file that changes meanwhile is noticed
        episode = source.episode(key)
        if not episode.success:
            raise DemonstrationFailed(f"{key}: the episode says it did not succeed")
    except DemonstrationFailed as failure:
        with room_for(marker):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(f"{failure}\n")
            path.unlink(missing_ok=True)
        return False
    write_episode(path, episode, layout, stamp)
    return True


def failure_marker(path: Path) -> Path:
    """Stands where the episode would, once its demonstration was tried and failed."""
    return path.with_suffix(".failed")
