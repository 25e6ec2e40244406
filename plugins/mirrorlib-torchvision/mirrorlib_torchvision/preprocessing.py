"""From recorded frames to what a video network sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mirrorlib.randomness import uniform

SHIFT = 1 / 12
CONTRAST = 0.15
BRIGHTNESS = 0.1
"""Of the range [-1, 1]: five percent of it either way."""


def prepare(frames: Tensor, size: int) -> Tensor:
    """frames: (B, T, 3, H, W) uint8. Returns (B, T, 3, size, size) float32 in [-1, 1].

    The mean over areas where the size divides both H and W, else bilinear with antialiasing.
    """
    height, width = frames.shape[-2:]
    images = frames.flatten(0, 1).float()
    if (height, width) == (size, size):
        resized = images
    elif height % size == 0 and width % size == 0:
        resized = F.avg_pool2d(images, (height // size, width // size))
    else:
        resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return (resized / 127.5 - 1).unflatten(0, frames.shape[:2])


def augment(video: Tensor, seed: Tensor) -> Tensor:
    """Shift each clip and vary its contrast and brightness, alike in all its frames.

    video: (B, T, 3, S, S) in [-1, 1]. seed: (B,) int64, each row's own. Pixels at the border
    are repeated outwards.
    """
    size = video.shape[-1]
    reach = int(size * SHIFT)
    row, column, contrast, brightness = uniform(seed, 4, "mirrorlib-torchvision").T
    for axis, number in ((-2, row), (-1, column)):
        offset = (number * (2 * reach + 1)).long() - reach
        shape = [len(video), 1, 1, 1, 1]
        shape[axis] = size
        source = torch.arange(size, device=video.device) + offset[:, None]
        video = video.gather(axis, source.clamp(0, size - 1).view(shape).expand_as(video))
    gain = 1 + CONTRAST * (2 * contrast - 1)
    return video * gain.view(-1, 1, 1, 1, 1) + (BRIGHTNESS * (2 * brightness - 1)).view(
        -1, 1, 1, 1, 1
    )
