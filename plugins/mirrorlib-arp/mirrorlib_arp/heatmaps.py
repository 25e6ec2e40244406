"""Heat-maps of three orthographic views: targets, loss, and the point they agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib_arp.renderer import AXES

REACH = 2
"""Voxels on either side of the maximum that refine it."""

SLAB = 1 << 20
"""Voxels whose sums are held at a time."""


def targets(point: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussians around the point's pixel in each view, each summing to one.

    point: (B, 3) cube coordinates. sigma: pixels. Returns (B, 3, S, S).
    """
    centres = torch.arange(size, device=point.device) + 0.5
    profile = torch.softmax(-((centres - point[..., None] * size) ** 2) / (2 * sigma**2), -1)
    return torch.stack(
        [profile[:, row, :, None] * profile[:, column, None, :] for row, column, _ in AXES], 1
    )


def loss(heatmaps: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of heat-maps, in logits, averaged over rows and views.

    heatmaps: (B, 3, S, S) logits. target: (B, 3, S, S) probabilities. Returns ().
    """
    return -(target.flatten(2) * heatmaps.flatten(2).log_softmax(-1)).sum(-1).mean()


def locate(heatmaps: Tensor) -> Tensor:
    """The point where the three views' log-probabilities have the largest sum.

    The expectation over the voxels near the maximum refines it.

    heatmaps: (B, 3, S, S) logits. Returns (B, 3) cube coordinates.
    """
    size = heatmaps.shape[-1]
    maps = heatmaps.flatten(2).log_softmax(-1).view_as(heatmaps)
    voxel = peak(maps)
    window = torch.arange(2 * REACH + 1, device=voxel.device)
    near = (voxel - REACH).clamp(0, size - len(window))[..., None] + window
    top, front, left = (
        maps[:, view].flatten(1).gather(1, _cells(near, axes, size).flatten(1))
        for view, axes in enumerate(AXES)
    )
    weight = ((top + front) + left).softmax(1).unflatten(1, (len(window),) * 3)
    marginals = torch.stack([weight.sum((2, 3)), weight.sum((1, 3)), weight.sum((1, 2))], 1)
    return ((marginals * near).sum(-1) + 0.5) / size


def locate_mean(heatmaps: Tensor) -> Tensor:
    """The centre of the voxel where the mean of the three views' probabilities is largest.

    heatmaps: (B, 3, S, S) logits. Returns (B, 3) cube coordinates. As RVT-2 and ARP decode.
    """
    maps = heatmaps.flatten(2).softmax(-1).view_as(heatmaps)
    return (peak(maps) + 0.5) / heatmaps.shape[-1]


def peak(maps: Tensor) -> Tensor:
    """The voxel with the largest sum of what the views show of it; of equal ones the first.

    With axis-aligned views that sum is a broadcast A[x,y] + B[y,z] + C[x,z], taken over slabs of x:
    no table of S^3 numbers is made.

    maps: (B, 3, S, S). Returns (B, 3) int64 indices x, y, z.
    """
    batch, _, size, _ = maps.shape
    top, front, left = maps.unbind(1)
    highest = maps.new_full((batch,), -torch.inf)
    best = torch.zeros(batch, dtype=torch.int64, device=maps.device)
    slab = max(1, SLAB // (batch * size**2))
    for start in range(0, size, slab):
        rows = slice(start, start + slab)
        total = top[:, rows, :, None] + front[:, None]
        total += left[:, rows, None, :]
        value, place = total.flatten(1).max(1)
        higher = value > highest
        highest = torch.where(higher, value, highest)
        best = torch.where(higher, place + start * size**2, best)
    return torch.stack([best // size**2, best // size % size, best % size], 1)


def _cells(near: Tensor, axes: tuple[int, int, int], size: int) -> Tensor:
    """Pixels of one view that show the voxels of a window. near: (B, 3, n) indices along each
    axis. Returns (B, n, n, n) indices into the S * S pixels."""
    shape = [[-1 if axis == own else 1 for axis in range(3)] for own in range(3)]
    row, column = (near[:, axis].view(len(near), *shape[axis]) for axis in axes[:2])
    cells = row * size + column
    return cells.expand(-1, *(near.shape[2],) * 3)
