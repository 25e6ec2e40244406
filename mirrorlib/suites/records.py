"""Which runs of a suite are done, and under which lock one is run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from mirrorlib.errors import UserError
from mirrorlib.files import writing
from mirrorlib.recipe import load_recipe
from mirrorlib.records import Record, records_of
from mirrorlib.suite import RECORDS, Run, Suite

LOCKS = ".running"


def is_done(suite: Suite, run: Run) -> bool:
    """Whether the suite's folder holds the record of this recipe, seed and versions. Raises
    UserError where a record cannot be read."""
    return any(_holds(record, run) and record.arm == run.arm for record in _own(suite, run))


def adopt(suite: Suite, run: Run) -> Path | None:
    """Takes over the record of the very same run under another arm's name, or of another suite in
    `records/`. Returns the record's new path, None where there is none. Raises UserError."""
    others = sorted(RECORDS.iterdir()) if RECORDS.is_dir() else []
    for folder in (suite.records, *others):
        for record in records_of(folder, run.recipe.sha):
            if _holds(record, run):
                taken = replace(record, suite=suite.name, arm=run.arm)
                with writing(suite.records / taken.file_name):
                    return taken.write(suite.records)
    return None


def outdated(suite: Suite, run: Run) -> str | None:
    """What has changed since the run's record was left, None where there is no record."""
    for record in _own(suite, run):
        names = sorted(record.versions.keys() | run.versions.keys())
        changes = [
            f"{name} was {record.versions.get(name, 'absent')}, is {run.versions.get(name, 'gone')}"
            for name in names
            if record.versions.get(name) != run.versions.get(name)
        ]
        if changes:
            return ", ".join(changes)
    return None


def refuse_mixing(suite: Suite, overrides: Sequence[str]) -> None:
    """Raises UserError where overrides decide numbers: the records would lie among those of the
    suite as it is written."""
    own, changed = (load_recipe(suite.recipe_file, each).decisive() for each in ((), overrides))
    differing = sorted(k for k in own.keys() | changed.keys() if own.get(k) != changed.get(k))
    if differing:
        raise UserError(
            f"{differing[0]} is not what {suite.file} has: keep these records apart, with "
            "--records FOLDER"
        )


@contextmanager
def claimed(suite: Suite, run: Run) -> Iterator[int | None]:
    """Within the block no other process runs this run. Yields the descriptor that holds the lock,
    for the run's process to inherit: the lock then lasts as long as either lives. Yields None where
    another process holds it. Raises UserError where the folder cannot be written.
    """
    locks = suite.records / LOCKS
    with writing(locks):
        locks.mkdir(parents=True, exist_ok=True)
        (locks / ".gitignore").write_text("*\n")
        descriptor = os.open(locks / run.recipe.sha, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor if _locked(descriptor) and not _folder_in_use(run) else None
    finally:
        os.close(descriptor)


def _own(suite: Suite, run: Run) -> list[Record]:
    return records_of(suite.records, run.recipe.sha)


def _holds(record: Record, run: Run) -> bool:
    return record.recipe_sha == run.recipe.sha and dict(record.versions) == dict(run.versions)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder_in_use(run: Run) -> bool:
    """Whether a process that no suite started, such as a scheduler's, works in the run's folder."""
    if not run.folder.is_dir():
        return False
    try:
        with FileLock(run.folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
