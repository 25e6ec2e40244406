"""Heat-maps of three orthographic views: targets, loss, and the point they agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib_arp.renderer import AXES

REACH = 2
"""Voxels on either side of the maximum that refine it."""


def targets(point: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussians around the point's pixel in each view, each summing to one.

    point: (B, 3) cube coordinates. sigma: pixels. Returns (B, 3, S, S).
    """
    centres = torch.arange(size, device=point.device) + 0.5
    profile = torch.softmax(-((centres - point[..., None] * size) ** 2) / (2 * sigma**2), -1)
    return torch.stack(
        [profile[:, row, :, None] * profile[:, column, None, :] for row, column, _ in AXES], 1
    )


def loss(heatmaps: Tensor, point: Tensor, sigma: float) -> Tensor:
    """Cross-entropy of heat-maps (B, 3, S, S), in logits, averaged over rows and views.

    point: (B, 3) cube coordinates of the target. Returns ().
    """
    target = targets(point, heatmaps.shape[-1], sigma).flatten(2)
    return -(target * heatmaps.flatten(2).log_softmax(-1)).sum(-1).mean()


def locate(heatmaps: Tensor) -> Tensor:
    """The point where the three views' log-probabilities have the largest sum.

    With axis-aligned views the sum over all S^3 voxels is a broadcast A[x,y] + B[y,z] + C[x,z].
    The expectation over the voxels near the maximum refines it.

    heatmaps: (B, 3, S, S) logits. Returns (B, 3) cube coordinates.
    """
    size = heatmaps.shape[-1]
    top, front, left = heatmaps.flatten(2).log_softmax(-1).view_as(heatmaps).unbind(1)
    total = top[:, :, :, None] + front[:, None] + left[:, :, None, :]
    best = total.flatten(1).argmax(1)
    voxel = torch.stack([best // size**2, best // size % size, best % size], 1)

    window = torch.arange(2 * REACH + 1, device=best.device)
    near = (voxel - REACH).clamp(0, size - len(window))[..., None] + window
    x, y, z = near.unbind(1)
    row = torch.arange(len(best), device=best.device)[:, None, None, None]
    local = total[row, x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]]
    weight = local.flatten(1).softmax(1).view_as(local)
    marginals = torch.stack([weight.sum((2, 3)), weight.sum((1, 3)), weight.sum((1, 2))], 1)
    return ((marginals * near).sum(-1) + 0.5) / size
