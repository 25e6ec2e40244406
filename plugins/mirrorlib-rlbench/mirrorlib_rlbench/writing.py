"""Demonstrations written as RLBench's own generator writes them, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib_rlbench.config import CAMERAS
from mirrorlib_rlbench.episode import DESCRIPTIONS
from mirrorlib_rlbench.observations import FILE

ASIDE = ".recording"
"""Folder beside the tasks' where all is written first; RLBench would count an episode's there."""
STALE = 24 * 3600
"""Seconds after which what is aside was left by a process that is no more."""
SETTINGS = "recording.json"
"""File beside the tasks' folders that tells how the split's demonstrations were recorded."""
IMAGES = ("rgb", "depth", "mask", "point_cloud")


def write_episode(demo: Any, folder: Path, split: Path) -> bool:
    """Whether it was written: another process may have been first, whose episode stays.

    demo: a live Demo of RLBench's, whose depth is a share of near to far plane; its images are
    taken from it. folder: `<split>/<task>/variation<N>/episodes/episode<M>`. It is written aside
    and on the disk before it is renamed. Raises UserError where it cannot be.

    Colours are PNG files, depth 24 bits over red, green, blue, and the rest a pickle of RLBench's
    own classes. No masks.
    """
    with _disk(folder), _aside(split) as aside:
        for camera in CAMERAS:
            for kind in ("rgb", "depth"):
                (aside / f"{camera}_{kind}").mkdir()
        for frame, observation in enumerate(demo):
            for camera in CAMERAS:
                colours = getattr(observation, f"{camera}_rgb")
                depth = coded(getattr(observation, f"{camera}_depth"))
                for kind, image in (("rgb", colours), ("depth", depth)):
                    Image.fromarray(image).save(aside / f"{camera}_{kind}" / f"{frame}.png")
                for kind in IMAGES:
                    setattr(observation, f"{camera}_{kind}", None)
        (aside / FILE).write_bytes(pickle.dumps(demo))
        os.sync()  # hundreds of files: faster than one by one
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _renamed(aside, folder)


def write_descriptions(texts: Sequence[str], folder: Path, split: Path) -> None:
    """folder: of the variation. Whole at once, as several processes may write the same."""
    _write_whole(pickle.dumps([str(text) for text in texts]), folder / DESCRIPTIONS, split)


def check_settings(split: Path, settings: Mapping[str, Any]) -> None:
    """Raises UserError where the split's demonstrations were recorded with other settings."""
    file = split / SETTINGS
    try:
        told = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read; record into another folder") from error
    if told != dict(settings):
        raise UserError(
            f"{file}: what is there was recorded with {told}, not {dict(settings)}; ask for the "
            "same, or record into another folder"
        )


def keep_settings(split: Path, settings: Mapping[str, Any]) -> None:
    """Writes them where none are there yet, then checks as `check_settings`."""
    if not (split / SETTINGS).exists():
        _write_whole(json.dumps(dict(settings)).encode(), split / SETTINGS, split)
    check_settings(split, settings)


def clear_stale(split: Path) -> None:
    """Removes what was left aside, by no process that could still be writing it."""
    for place in (split / ASIDE).glob("*"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > STALE:
                shutil.rmtree(place, ignore_errors=True)


def coded(share: Any) -> NDArray[np.uint8]:
    """(H, W, 3) of shares (H, W) in [0, 1]: 24 bits, the highest in red."""
    code = np.floor(np.asarray(share, np.float64) * (2**24 - 1) + 0.5)
    whole = np.clip(code, 0, 2**24 - 1).astype(np.uint32)
    return np.stack([whole >> 16, whole >> 8 & 255, whole & 255], -1).astype(np.uint8)


def _renamed(aside: Path, folder: Path) -> bool:
    try:
        aside.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _write_whole(content: bytes, file: Path, split: Path) -> None:
    with _disk(file), _aside(split) as aside:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (aside / file.name).open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        (aside / file.name).replace(file)


@contextmanager
def _aside(split: Path) -> Iterator[Path]:
    """A folder of this process alone, over machines too. It is gone afterwards; a process that is
    killed leaves it."""
    place = split / ASIDE
    place.mkdir(parents=True, exist_ok=True)
    prefix = f"{socket.gethostname()}-{os.getpid()}-"
    with TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as made:
        aside = Path(made) / "whole"  # with the usual rights, unlike the folder made
        aside.mkdir()
        yield aside


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written ({error.strerror}); make room, then run the same command"
        ) from error
