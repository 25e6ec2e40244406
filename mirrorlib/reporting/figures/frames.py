"""Pictures of recorded episodes: what the observer and the executor saw of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirrorlib.assembly import check_data, executor_view, open_cache
from mirrorlib.data.batches import middle_clip
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Source
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import build_section

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """The recorded episodes of a run. folder: of the cache. clip_frames, camera: of its clips."""

    folder: Path
    clip_frames: int
    camera: str

    @classmethod
    def of_run(cls, run: Path) -> Frames:
        """Those that the run's recipe names. Raises UserError where it cannot be read here."""
        recipe = load_recipe(run / "recipe.yaml")
        source: Source = build_section("source", recipe.source)
        check_data(recipe, source)
        cache = open_cache(recipe, source, executor_view(recipe, source))
        if not cache.folder.is_dir():
            raise UserError(
                f"its demonstrations are not on this machine; mirrorlib record "
                f"{run / 'recipe.yaml'} brings them"
            )
        return cls(cache.folder, recipe.data.clip_frames, recipe.data.clip_cameras[0])

    def clip(self, name: str) -> Image:
        """The middle frame (H, W, 3) of an episode's clip, such as `test/turn_tap/0/3`."""
        episode, camera, rows, _ = middle_clip(self._episode(name), self.clip_frames, self.camera)
        return episode.clip(camera, [rows[len(rows) // 2]])[0].transpose(1, 2, 0)

    def scene(self, name: str) -> Image:
        """The first view (H, W, 3) that the executor has of an episode before it acts."""
        image: Image = self._episode(name).step(0)["rgb"][0].transpose(1, 2, 0)
        return image

    def _episode(self, name: str) -> StoredEpisode:
        split, task, variation, index = name.split("/")
        return StoredEpisode(self.folder / split / task / f"{variation}-{index}.safetensors")
