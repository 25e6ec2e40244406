"""From pictures to context tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib_arp.chunking import Sinusoidal


class Pictures(nn.Module):
    """A small convolutional network with two kinds of tokens, which know their camera.

    Patches of 8 x 8 pixels, with sinusoids of their place; and one token a camera of where each
    channel of a finer map is strongest (spatial softmax, Finn et al. 2016), without which a
    regression of places learns many times slower.
    """

    def __init__(self, cameras: int, channels: int, width: int) -> None:
        super().__init__()
        self.camera = nn.Parameter(0.02 * torch.randn(cameras, 1, width))
        self.fine = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1),
            nn.GroupNorm(4, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.GroupNorm(4, 2 * channels),
            nn.ReLU(),
        )
        self.keypoints = nn.Conv2d(2 * channels, channels, 1)
        self.places = nn.Linear(2 * channels, width)
        self.coarse = nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, width, 3, stride=2, padding=1),
        )
        self.grid = Sinusoidal(width, dim=2)
        self.norm = nn.LayerNorm(width)

    def forward(self, rgb: Tensor) -> Tensor:
        """rgb: (B, V, 3, H, W) uint8. Returns (B, V (1 + L), D), L = ceil(H / 8) ceil(W / 8)."""
        fine = self.fine(rgb.flatten(0, 1) / 127.5 - 1)
        places = self.places(spatial_softmax(self.keypoints(fine)))[:, None]
        coarse = self.coarse(fine)
        rows, columns = (torch.arange(size, device=rgb.device) for size in coarse.shape[2:])
        grid = torch.cartesian_prod(rows, columns).to(self.camera.dtype)
        patches = coarse.flatten(2).transpose(1, 2) + self.grid(grid[None], {})
        tokens = torch.cat([places, patches], 1).unflatten(0, rgb.shape[:2])
        return self.norm(tokens + self.camera).flatten(1, 2)


def spatial_softmax(maps: Tensor) -> Tensor:
    """Where each channel is strongest, in expectation. maps: (B, C, H, W). Returns (B, 2 C), all
    rows, then all columns, from -1 to 1."""
    weights = F.softmax(maps.flatten(2).float(), -1).view_as(maps)
    row, column = (
        (2 * torch.arange(size, device=maps.device) + 1) / size - 1 for size in maps.shape[2:]
    )
    return torch.cat([(weights.sum(3) * row).sum(2), (weights.sum(2) * column).sum(2)], 1)
