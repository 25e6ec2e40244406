"""A head that paints a heat-map: where on a feature map the next point is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking.heads import Head, choose_index, full_precision
from mirrorlib_arp.chunking.layers import Contexts, context_of

CUT = 3
"""Targets are zero beyond this many standard deviations."""

MIN_SIGMA = 0.25
"""In pixels: below it a target could miss every pixel's centre."""


class HeatMap(Head):
    """One logit a pixel, by the product of slot and feature map and a convex upsampling.

    Each slot scales the channels of contexts[context] (B, channels, h, w); convolutions make of
    the product a coarse map of logits and, for each fine pixel, the weights of nine coarse
    neighbours (RAFT, Teed and Deng 2020; there they upsample flow). widen: channels of the hidden
    convolution layers over `channels`.

    Parameters: logits (B, n, h upscale, w upscale). Targets: probabilities of that shape, or points
    (B, n, 2), for which Gaussians of `sigma` pixels are painted. Values: (B, n, 2) row and column
    in [0, 1], centres of pixels.
    """

    def __init__(
        self,
        width: int,
        context: str,
        channels: int,
        upscale: int = 14,
        widen: float = 1.25,
        sigma: float = 1.5,
    ) -> None:
        super().__init__()
        if sigma < MIN_SIGMA:
            raise UserError(f"chunking: a heat-map's sigma is at least {MIN_SIGMA}, not {sigma}")
        self.dim = 2
        self.context, self.upscale, self.sigma = context, upscale, sigma
        hidden = round(widen * channels)
        self.slot = nn.Linear(width, channels)
        self.coarse = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )
        self.weights = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 9 * upscale**2, 1),
        )

    def forward(self, slots: Tensor, contexts: Contexts) -> Tensor:
        features = context_of(contexts, self.context)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise UserError(f"chunking: context {self.context!r} must be a map (B, C, h, w)")
        product = self.slot(slots)[..., None, None] * features[:, None]
        flat = product.flatten(0, 1)
        coarse, weights = full_precision(self.coarse(flat)[:, 0]), self.weights(flat)
        weights = full_precision(weights).unflatten(1, (9, self.upscale, self.upscale))
        return convex_upsample(coarse, weights).unflatten(0, product.shape[:2])

    def losses(self, parameters: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 3:
            targets = soft_heatmap(targets, (parameters.shape[2], parameters.shape[3]), self.sigma)
        logits = parameters.flatten(2).log_softmax(-1)
        return -(targets.flatten(2).to(logits.dtype) * logits).sum(-1)

    def choose(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        height, width = parameters.shape[-2:]
        pixel = choose_index(parameters.flatten(2), generator)
        row, column = pixel // width + 0.5, pixel % width + 0.5
        return torch.stack([row / height, column / width], -1).to(parameters.dtype)


def convex_upsample(coarse: Tensor, weights: Tensor) -> Tensor:
    """Every fine pixel is a convex combination of the 3 x 3 coarse pixels about its own.

    coarse: (N, h, w), its border repeated outwards. weights: (N, 9, k, k, h, w), logits of the
    neighbours row by row, for k x k fine pixels each. Returns (N, h k, w k).
    """
    height, width = coarse.shape[1:]
    padded = F.pad(coarse[:, None], (1, 1, 1, 1), mode="replicate")
    neighbours = F.unfold(padded, 3).view(-1, 9, 1, 1, height, width)
    fine = (weights.softmax(1) * neighbours).sum(1)
    return fine.permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2)


def soft_heatmap(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Gaussians about points, zero beyond three sigma, each summing to one.

    points: (..., 2) row and column in [0, 1]; points beyond are moved to the border. size: H, W.
    sigma: pixels, at least 0.25. Returns (..., H, W) of the points' dtype.
    """
    scale = torch.tensor(size, device=points.device, dtype=points.dtype)
    centre = (points * scale).clamp(min=torch.zeros_like(scale), max=scale)
    rows, columns = (
        (torch.arange(count, device=points.device) + 0.5 - centre[..., axis, None]) ** 2
        for axis, count in enumerate(size)
    )
    distance = rows[..., :, None] + columns[..., None, :]
    weight = torch.exp(-distance / (2 * sigma**2)) * (distance <= (CUT * sigma) ** 2)
    return weight / weight.sum((-2, -1), keepdim=True)
