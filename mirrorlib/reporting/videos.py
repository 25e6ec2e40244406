"""Rollouts as mp4."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from mirrorlib.evaluation.rollouts import Rollout

SCALE = 3
"""Pixels are repeated, so that a 128 x 128 camera is seen at 384 x 384."""


def write_video(rollout: Rollout, path: Path, fps: float) -> None:
    """The rollout's frames (T, H, W, 3), with a frame of colour at the end: green for success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = rollout.frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    last = np.repeat(frames[-1:], round(fps), axis=0)
    colour = (46, 160, 67) if rollout.success else (200, 60, 50)
    for edge in (np.s_[:, :12], np.s_[:, -12:], np.s_[:, :, :12], np.s_[:, :, -12:]):
        last[edge] = colour
    imageio.mimwrite(
        path, list(np.concatenate([frames, last])), fps=fps, macro_block_size=16, quality=7
    )
