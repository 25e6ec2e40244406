"""ViCLIP (InternVid, arXiv 2307.06942): a video-text transformer, alone and as an observer.

Importing this package never imports torch; `ViCLIP` does, when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirrorlib_viclip.config import ViCLIPConfig

if TYPE_CHECKING:
    from mirrorlib_viclip.model import ViCLIP

__all__ = ["ViCLIP", "ViCLIPConfig"]


def __getattr__(name: str) -> Any:
    if name == "ViCLIP":
        from mirrorlib_viclip.model import ViCLIP

        return ViCLIP
    raise AttributeError(f"module 'mirrorlib_viclip' has no attribute {name!r}")
