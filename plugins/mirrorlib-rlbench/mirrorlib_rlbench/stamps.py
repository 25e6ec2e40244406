"""Whether the files of an episode are still those that were read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mirrorlib_rlbench.episode import DESCRIPTIONS, VARIATION
from mirrorlib_rlbench.observations import FILE

State = tuple[str, int, int]
"""Name, bytes, nanoseconds of the last change."""


def episode_stamp(folder: Path, cameras: Sequence[str]) -> str:
    """A digest of names, sizes and times of all that `read_episode` may read of these cameras.
    Nothing is opened but folders; what is missing is left out."""
    alone = (FILE, VARIATION, DESCRIPTIONS, f"../../{DESCRIPTIONS}")
    states = [state for name in alone for state in _state(folder, name)]
    states += [
        state
        for camera in cameras
        for kind in ("rgb", "depth")
        for state in _pictures(folder, f"{camera}_{kind}")
    ]
    return hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()


def _state(folder: Path, name: str) -> list[State]:
    try:
        found = os.stat(folder / name)
    except OSError:
        return []
    return [(name, found.st_size, found.st_mtime_ns)]


def _pictures(folder: Path, name: str) -> list[State]:
    try:
        with os.scandir(folder / name) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return []
    return sorted((f"{name}/{file}", at.st_size, at.st_mtime_ns) for file, at in found)
