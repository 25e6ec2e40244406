"""From recorded frames to what ViCLIP sees."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, as ViCLIP was trained, not CLIP's."""


def middle_frames(present: int, wanted: int) -> list[int]:
    """Which of `present` frames stand for a clip: the middle of each of `wanted` equal segments;
    where there are fewer frames, all of them and the last one again. (InternVideo, ViCLIP's
    video_utils.py.) Both must be at least 1."""
    if present < 1 or wanted < 1:
        raise ValueError(f"frames must be at least 1, got {present} present and {wanted} wanted")
    segments = min(present, wanted)
    bounds = [index * present // segments for index in range(segments + 1)]
    middles = [(begin + end - 1) // 2 for begin, end in pairwise(bounds)]
    return middles + middles[-1:] * (wanted - segments)


def prepare(frames: Tensor, image_size: int = 224, num_frames: int = 8) -> Tensor:
    """frames: (B, T, 3, H, W) uint8. Returns (B, num_frames, 3, image_size, image_size) float32,
    normalised by ImageNet's mean and deviation.

    Frames at segment middles, each resized as a whole by bicubic interpolation (antialiased where
    it shrinks) without any crop, kept within [0, 255].
    """
    frames = frames[:, middle_frames(frames.shape[1], num_frames)]
    images = frames.flatten(0, 1).float()
    if images.shape[-2:] != (image_size, image_size):
        size = (image_size, image_size)
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (255 * torch.tensor(of, device=images.device) for of in (MEAN, STD))
    images = (images - mean[:, None, None]) / std[:, None, None]
    return images.unflatten(0, frames.shape[:2])
