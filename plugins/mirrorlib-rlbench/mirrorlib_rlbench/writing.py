"""Demonstrations written as RLBench's own generator writes them, whole or not at all."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirrorlib.errors import UserError
from mirrorlib_rlbench.config import CAMERAS
from mirrorlib_rlbench.episode import DESCRIPTIONS
from mirrorlib_rlbench.observations import FILE

ASIDE = ".recording"
"""Folder beside the tasks' where an episode is written; RLBench would count one in `episodes`."""
IMAGES = ("rgb", "depth", "mask", "point_cloud")


def write_episode(demo: Any, folder: Path, aside: Path) -> None:
    """demo: a live Demo of RLBench's, whose depth is a share of near to far plane; its images are
    taken from it. folder: `.../variation<N>/episodes/episode<M>`, not there yet. aside: a folder on
    the same disk, where it is written before it is renamed. Raises UserError where it cannot be.

    Colours are PNG files, depth 24 bits over red, green, blue, and the rest a pickle of RLBench's
    own classes. No masks.
    """
    with _disk(folder):
        shutil.rmtree(aside, ignore_errors=True)
        for camera in CAMERAS:
            for kind in ("rgb", "depth"):
                (aside / f"{camera}_{kind}").mkdir(parents=True)
        for frame, observation in enumerate(demo):
            for camera in CAMERAS:
                colours = getattr(observation, f"{camera}_rgb")
                depth = coded(getattr(observation, f"{camera}_depth"))
                for kind, image in (("rgb", colours), ("depth", depth)):
                    Image.fromarray(image).save(aside / f"{camera}_{kind}" / f"{frame}.png")
                for kind in IMAGES:
                    setattr(observation, f"{camera}_{kind}", None)
        _write(aside / FILE, demo)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)


def write_descriptions(texts: Sequence[str], folder: Path) -> None:
    """folder: of the variation. Whole at once, as several processes may write the same."""
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{DESCRIPTIONS}.{os.getpid()}"
        _write(beside, [str(text) for text in texts])
        beside.rename(folder / DESCRIPTIONS)


def coded(share: Any) -> NDArray[np.uint8]:
    """(H, W, 3) of shares (H, W) in [0, 1]: 24 bits, the highest in red."""
    code = np.floor(np.asarray(share, np.float64) * (2**24 - 1) + 0.5)
    whole = np.clip(code, 0, 2**24 - 1).astype(np.uint32)
    return np.stack([whole >> 16, whole >> 8 & 255, whole & 255], -1).astype(np.uint8)


def _write(file: Path, content: Any) -> None:
    with file.open("wb") as opened:
        pickle.dump(content, opened)
        opened.flush()
        os.fsync(opened.fileno())


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written ({error.strerror}); make room, then run the same command"
        ) from error
