"""One stage of the multi-view transformer: three views in, one heat-map a view out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib_arp.renderer import CHANNELS, VIEWS
from mirrorlib_arp.transformer import Block, bias_from_mask

PATCH = 8
"""Pixels a side that one token covers: three convolutions of stride 2."""

UPSAMPLED = 8
"""Channels that the tokens contribute at full resolution."""


@dataclass(frozen=True)
class Context:
    """What the views are read against.

    pooled: (B, D) of the instruction and the robot's state. words: (B, L, D). mask: (B, L) bool.
    """

    pooled: Tensor
    words: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Reading:
    """What a stage makes of its views.

    heatmaps: (B, 3, S, S) float32 logits. views: (B, 3, 7, S, S), as given. tokens: (B, 3, S/8,
    S/8, D). pixels: (B, 3, C, S, S). pooled: (B, D), the context after the transformer.
    """

    heatmaps: Tensor
    views: Tensor
    tokens: Tensor
    pixels: Tensor
    pooled: Tensor


class Film(nn.Module):
    """Scales and shifts channels by a vector (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)

    def forward(self, pixels: Tensor, vector: Tensor) -> Tensor:
        """pixels: (B * 3, C, S, S). vector: (B, 3, D)."""
        scale, shift = self.linear(vector).flatten(0, 1)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, pixels, 1 + scale)


class Stage(nn.Module):
    """A convolutional stem conditioned on the context, a transformer over the tokens of all views,
    the context and the words jointly, and a convolutional decoder at full resolution.

    Tokens also paint the heat-maps directly, beside the decoder: without this short way the
    zoomed stage needs about twice the steps to begin to locate anything.
    """

    def __init__(self, size: int, width: int, depth: int, heads: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.grid = size // PATCH
        self.view = nn.Parameter(0.02 * torch.randn(VIEWS, width))
        self.stem = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        self.stem_film = Film(width, channels)
        self.down = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4 * channels, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(VIEWS * self.grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, PATCH * PATCH * UPSAMPLED)
        self.decode = nn.Conv2d(channels + UPSAMPLED, channels, 3, padding=1)
        self.decode_film = Film(width, channels)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        self.heat = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, views: Tensor, context: Context) -> Reading:
        """views: (B, 3, 7, S, S) float32, as the renderer gives them."""
        batch, size = len(views), views.shape[-1]
        condition = context.pooled[:, None] + self.view
        fine = F.relu_(self.stem_film(self.stem(views.flatten(0, 1)), condition))
        tokens, pooled = self._mix(self.down(fine), context)

        painted = self._upsample(tokens)
        pixels = torch.cat([fine, painted], 1)
        pixels = F.relu_(self.decode_film(self.decode(pixels), pooled[:, None] + self.view))
        pixels = F.relu_(self.refine(pixels))
        return Reading(
            heatmaps=(self.heat(pixels) + painted[:, :1]).view(batch, VIEWS, size, size).float(),
            views=views,
            tokens=tokens.unflatten(1, (VIEWS, self.grid, self.grid)),
            pixels=pixels.unflatten(0, (batch, VIEWS)),
            pooled=pooled,
        )

    def _mix(self, coarse: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """coarse: (B * 3, D, S/8, S/8). Returns view tokens (B, 3 (S/8)^2, D), context (B, D)."""
        visual = coarse.flatten(2).transpose(1, 2).unflatten(0, (-1, VIEWS)).flatten(1, 2)
        count = visual.shape[1]
        tokens = torch.cat([visual + self.position, context.pooled[:, None], context.words], 1)
        mask = F.pad(context.mask, (count + 1, 0), value=True)
        bias = bias_from_mask(mask)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, bias)
        tokens = self.norm(tokens)
        return tokens[:, :count], tokens[:, count]

    def _upsample(self, tokens: Tensor) -> Tensor:
        """Each token paints its patch. tokens: (B, 3 (S/8)^2, D). Returns (B * 3, 8, S, S)."""
        patches = self.up(tokens).view(-1, self.grid, self.grid, PATCH, PATCH, UPSAMPLED)
        size = self.grid * PATCH
        image = patches.transpose(2, 3).reshape(-1, size, size, UPSAMPLED)
        return image.permute(0, 3, 1, 2)
