"""Which scene RLBench lays out: it draws from numpy's global generator, one task from Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Episode, Observation
from mirrorlib_rlbench.observations import Observations
from mirrorlib_rlbench.pictures import Pictures
from mirrorlib_rlbench.standins import Array

LENGTH = 624
"""Of the Mersenne twister's state."""
MOST_ATTEMPTS = 40
"""After which RLBench gives up laying out a scene."""
STILL, MOVED = 0.005, 0.0025
"""A scene is another's where depths differ by more than 5 mm in more than this share of a picture:
0.7 % at least between recordings of one variation at hand, whose median difference is 0."""


@dataclass(frozen=True)
class StoredScene:
    """What a demonstration's file says of its scene. state: of numpy's generator when the scene was
    laid out. seed: of Python's, if `mirrorlib_rlbench.record` made it and RLBench's first attempt
    succeeded. attempts: how often it was tried then; None where the vintage does not tell."""

    file: Path
    state: Any
    seed: int
    attempts: int | None


class Draws:
    """The global generators as the simulator left them, apart from the caller's."""

    def __init__(self) -> None:
        self._numpy: Any = np.random.RandomState(0).get_state()
        self._python = random.Random(0).getstate()

    @contextmanager
    def own(self) -> Iterator[None]:
        """Within the block they are the simulator's; after it the caller's, as they were."""
        before: tuple[Any, Any] = np.random.get_state(), random.getstate()
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        try:
            yield
        finally:
            self._numpy, self._python = np.random.get_state(), random.getstate()
            np.random.set_state(before[0])
            random.setstate(before[1])


def draw_from(seed: int) -> None:
    """Seeds both global generators with a number in [0, 2^64)."""
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    random.seed(seed)


def draw_again(scene: StoredScene) -> None:
    """The global generators as they were when the scene was recorded; Python's, which no file
    holds, as our recorder seeds it."""
    np.random.set_state(scene.state)
    random.seed(scene.seed)


def stored_scene(episode: Episode) -> StoredScene:
    """Of an episode that the source `rlbench` read. Raises UserError where its file, which is read
    anew and never unpickled, is missing, damaged or tells no scene."""
    from mirrorlib.randomness import scene_seed

    origin: Mapping[str, Any] = episode.origin
    if not {"root", "file", "split", "index"} <= set(origin):
        raise UserError(
            f"an episode of {episode.task} does not say which of RLBench's files it was read from; "
            "only scenes of episodes that the source `rlbench` read can be restored"
        )
    told = Observations(Path(origin["root"]) / origin["file"])
    seed, attempts = told.demo.get("random_seed"), told.demo.get("num_reset_attempts")
    if seed is None:
        raise UserError(
            f"{told.file}: tells no scene (random_seed), as RLBench's first vintage; evaluate in "
            "scenes drawn from seeds, or record anew"
        )
    state = _state(seed)
    if state is None:
        raise UserError(f"{told.file}: its random_seed is damaged; fetch the episode again")
    if attempts is not None and not (type(attempts) is int and 1 <= attempts <= MOST_ATTEMPTS):
        raise UserError(
            f"{told.file}: its num_reset_attempts is {attempts!a:.40}; expected 1 to "
            f"{MOST_ATTEMPTS}; fetch the episode again"
        )
    python = scene_seed(episode.task, episode.variation, origin["split"], origin["index"])
    return StoredScene(told.file, state, python, attempts)


def moved(live: Observation, episode: Episode) -> str | None:
    """How the scene before the first action differs from the recorded one's first frame, by the
    depths that one camera which stands sees. None where it does not, and where there is nothing to
    compare: no such camera in both, another size, or a first frame that was trimmed away."""
    both = [camera for camera in live.depth if camera != "wrist" and camera in episode.depth]
    camera = "front" if "front" in both else next(iter(both), None)
    if camera is None:
        return None
    pictures: Any = episode.depth[camera]
    seen = live.depth[camera]
    trimmed = isinstance(pictures, Pictures) and pictures.files[0].stem != "0"
    if trimmed or pictures.shape[1:] != seen.shape:
        return None
    share = float((np.abs(pictures[0] - seen) > STILL).mean())
    return f"{share:.1%} of what {camera} sees is not where it was" if share > MOVED else None


def _state(told: Any) -> Any:
    """As `numpy.random.set_state` wants it, which looks at too little itself: a position beyond
    the keys would be read from. None where it is no such state."""
    match told:
        case (
            "MT19937",
            Array(value=np.ndarray() as keys),
            int(place),
            0 | 1 as kept,
            float(spare),
        ):
            if keys.shape == (LENGTH,) and keys.dtype.kind in "iu" and 0 <= place <= LENGTH:
                return "MT19937", keys.astype(np.uint32), place, kept, spare
    return None
