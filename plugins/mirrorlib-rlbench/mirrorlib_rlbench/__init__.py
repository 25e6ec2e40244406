"""RLBench for mirrorlib: a safe, lazy reader of its demonstrations, and the live simulator.

Importing this package never imports torch or RLBench; the source imports torch when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirrorlib_rlbench.dataset import RLBenchDataset
    from mirrorlib_rlbench.episode import Recording, read_episode

__all__ = ["RLBenchDataset", "Recording", "read_episode"]

_PLACES = {"RLBenchDataset": "dataset", "Recording": "episode", "read_episode": "episode"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"mirrorlib_rlbench.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'mirrorlib_rlbench' has no attribute {name!r}")
