"""Rollouts as mp4, with what was asked for and what came of it written below."""

from __future__ import annotations

import textwrap
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mirrorlib.evaluation.rollouts import Rollout

WIDTH = 384
"""Pixels are repeated, so that a 128 x 128 camera is seen at about this width."""
BAND = 64
"""Height of the band of text below the picture, in pixels."""
FONT_SIZE, LINE, MARGIN = 16, 20, 6
EDGE = 12
SOLVED, FAILED = (0, 114, 178), (213, 94, 0)
"""Okabe and Ito's blue and vermilion, which colour-blind eyes tell apart."""


@dataclass(frozen=True)
class Film:
    """frames: (T, H, W, 3) uint8, without band and held end. fps: frames a second."""

    frames: NDArray[np.uint8]
    fps: float


def write_video(rollout: Rollout, path: Path, fps: float) -> None:
    """The rollout's frames (T, H, W, 3), enlarged, above the instruction. The last frame is held
    for a second, edged in blue and with the outcome where the scene was solved, else in orange."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, round(WIDTH / rollout.frames.shape[2]))
    frames = rollout.frames.repeat(scale, axis=1).repeat(scale, axis=2)
    held = np.repeat(frames[-1:], round(fps), axis=0)
    colour = SOLVED if rollout.success else FAILED
    for edge in (np.s_[:, :EDGE], np.s_[:, -EDGE:], np.s_[:, :, :EDGE], np.s_[:, :, -EDGE:]):
        held[edge] = colour
    solved = "✓ solved" if rollout.success else "✗ not solved"
    outcome = f"{solved}, {rollout.actions} actions"
    parts = [
        _captioned(frames, rollout.instruction),
        _captioned(held, rollout.instruction, outcome, colour),
    ]
    beside = path.with_name(f".{path.stem}.partial{path.suffix}")
    imageio.mimwrite(beside, list(np.concatenate(parts)), fps=fps, macro_block_size=2, quality=7)
    beside.replace(path)


def read_film(path: Path) -> Film:
    """The rollout's frames of a video that `write_video` left, as the codec kept them."""
    with closing(imageio.get_reader(path)) as reader:
        fps = float(reader.get_meta_data()["fps"])
        frames = np.stack([np.asarray(frame) for frame in reader.iter_data()])
    return Film(frames[: -round(fps), :-BAND], fps)


def _captioned(
    frames: NDArray[np.uint8],
    instruction: str,
    outcome: str = "",
    colour: tuple[int, int, int] = FAILED,
) -> NDArray[np.uint8]:
    """frames: (T, H, W, 3). Returns (T, H + BAND, W, 3)."""
    width = frames.shape[2]
    band = Image.new("RGB", (width, BAND), "black")
    draw = ImageDraw.Draw(band)
    font = ImageFont.truetype(findfont("DejaVu Sans"), FONT_SIZE)
    bold = ImageFont.truetype(findfont("DejaVu Sans:bold"), FONT_SIZE)
    characters = int((width - 2 * MARGIN) / font.getlength("n"))
    lines = textwrap.wrap(instruction, characters, max_lines=2, placeholder="…")
    for row, line in enumerate(lines):
        draw.text((MARGIN, 2 + row * LINE), line, "white", font)
    if outcome:
        top = 2 + 2 * LINE
        draw.rectangle((0, top, width, BAND), colour)
        draw.text((MARGIN, top), outcome, "white", bold)
    below = np.broadcast_to(np.asarray(band), (len(frames), BAND, width, 3))
    return np.concatenate([frames, below], axis=1)
