"""From a stage's reading and a point to the tokens that rotation and gripper are decoded from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib_arp.renderer import AXES, CHANNELS, VIEWS
from mirrorlib_arp.stage import Reading

LENGTH = 3 * VIEWS + 1


class Prompt(nn.Module):
    """Ten tokens: of each view the features at the point, their maximum over the view, and a crop
    around the point at full resolution; and the context."""

    def __init__(self, width: int, channels: int, crop: int) -> None:
        super().__init__()
        self.crop = crop
        self.at_point = nn.Linear(width + channels, width)
        self.pooled = nn.Linear(width, width)
        self.cropped = nn.Sequential(
            nn.Conv2d(channels + CHANNELS, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (crop // 4) ** 2, width),
        )
        self.context = nn.Linear(width, width)
        self.kind = nn.Parameter(0.02 * torch.randn(LENGTH, width))

    def forward(self, reading: Reading, point: Tensor) -> Tensor:
        """point: (B, 3) cube coordinates. Returns (B, 10, D)."""
        tokens, pixels = reading.tokens.float().movedim(-1, 2), reading.pixels.float()
        plane = plane_of(point)[:, :, None, None]
        at_point = torch.cat([sample(tokens, plane), sample(pixels, plane)], 2).flatten(2)
        around = sample(torch.cat([pixels, reading.views], 2), self._window(plane, pixels))
        prompt = [
            self.at_point(at_point),
            self.pooled(reading.tokens.amax((2, 3))),
            self.cropped(around.flatten(0, 1)).unflatten(0, (-1, VIEWS)),
            self.context(reading.pooled)[:, None],
        ]
        return torch.cat(prompt, 1) + self.kind

    def _window(self, plane: Tensor, pixels: Tensor) -> Tensor:
        """Pixel centres of the crop: (B, 3, crop, crop, 2) within [0, 1] where inside the view."""
        offset = torch.arange(self.crop, device=plane.device) - (self.crop - 1) / 2
        grid = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)
        return plane + grid / pixels.shape[-1]


def plane_of(point: Tensor) -> Tensor:
    """Where a point (B, 3) is seen in each view: (B, 3, 2) row and column, 0 to 1."""
    return torch.stack([point[:, [row, column]] for row, column, _ in AXES], 1)


def sample(maps: Tensor, plane: Tensor) -> Tensor:
    """Bilinear samples, zero outside. maps: (B, 3, C, S, S). plane: (B, 3, h, w, 2) row and
    column, 0 to 1. Returns (B, 3, C, h, w)."""
    grid = plane.flip(-1).flatten(0, 1) * 2 - 1
    sampled = F.grid_sample(maps.flatten(0, 1), grid.to(maps.dtype), align_corners=False)
    return sampled.unflatten(0, maps.shape[:2])
