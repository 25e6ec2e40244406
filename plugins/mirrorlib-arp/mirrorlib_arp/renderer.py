"""Three orthographic views of a cube of the world, by an exact z-buffer in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib.tracing import untraced
from mirrorlib_arp.clouds import Cloud

AXES = ((0, 1, 2), (1, 2, 0), (0, 2, 1))
"""For each view the world axes of a picture's rows, of its columns, and of its depth, the largest
coordinate being nearest: from the top, from the front (+x) and from the left (+y)."""

VIEWS = len(AXES)
CHANNELS = 7
WIDE_CHANNELS = 10


@dataclass(frozen=True)
class _Seen:
    """coordinates: (3, M) float32 of the points within the cubes, 0 to 1. colours: (M, 3), 0 to
    255. winner: (B, 3, S, S) int64, the point that a pixel shows; M where it shows none."""

    coordinates: Tensor
    colours: Tensor
    winner: Tensor

    def image(self, channels: int) -> Tensor:
        """(B, 3, channels, S, S) float32. The first six are cube coordinates and colour, both in
        [-1, 1], zero where a pixel shows nothing; the others are left to the caller."""
        batch, views, size, _ = self.winner.shape
        table = self.coordinates.new_zeros(6, self.coordinates.shape[1] + 1)
        torch.sub(self.coordinates * 2, 1, out=table[:3, :-1])
        torch.sub(self.colours.t().contiguous() / 127.5, 1, out=table[3:, :-1])
        image = self.coordinates.new_empty(batch, views, channels, size * size)
        index = self.winner.flatten()
        for channel, values in enumerate(table):
            image[:, :, channel] = values.index_select(0, index).view(batch, views, -1)
        return image.unflatten(3, (size, size))

    def hit(self) -> Tensor:
        """(B, 3, S, S) bool, whether a pixel shows a point."""
        return self.winner < self.coordinates.shape[1]


def to_cube(points: Tensor, centre: Tensor, side: float) -> Tensor:
    """World points as cube coordinates, 0 to 1 along each axis. All but `side`: (..., 3)."""
    return (points - centre) / side + 0.5


def from_cube(coordinates: Tensor, centre: Tensor, side: float) -> Tensor:
    """The inverse of `to_cube`."""
    return (coordinates - 0.5) * side + centre


@untraced
@torch.no_grad()
def render(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
    """Each pixel shows the nearest point that falls into it; of equally near ones the last.

    No gradient; deterministic on every device.

    centre: (B, 3) of each row's cube. side: of the cube, metres. size: S pixels a side.
    Returns (B, 3, 7, S, S) float32: cube coordinates and colour, both in [-1, 1], and occupancy;
    a pixel's channels lie side by side in memory.
    """
    seen = _seen(cloud, centre, side, size)
    image = seen.image(CHANNELS)
    image[:, :, 6] = seen.hit()
    return image.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


@untraced
@torch.no_grad()
def render_wide(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
    """The same views with the ten channels of RVT-2 and ARP. Arguments as of `render`.

    Returns (B, 3, 10, S, S) float32:
    0 to 2: cube coordinates in [-1, 1], divided by the largest absolute one that the row shows;
    3 to 5: colour in [-1, 1];
    6: distance along the view in half sides of the cube, less its mean over the pixels that show
       a point;
    7 to 9: number of the view, row and column, each from -1 to 1.
    Channels 0 to 6 are zero where a pixel shows nothing. Not specified in public sources: the set
    that the largest coordinate and the mean distance are of, and the background.
    """
    seen = _seen(cloud, centre, side, size)
    image, hit = seen.image(WIDE_CHANNELS), seen.hit()
    count = hit.sum((2, 3)).clamp_(min=1)
    for view, (_, _, depth) in enumerate(AXES):
        near = image[:, view, depth]
        mean = near.sum((1, 2)) / count[:, view]
        torch.mul(mean[:, None, None] - near, hit[:, view], out=image[:, view, 6])
    largest = image[:, :, :3].abs().amax((1, 2, 3, 4)).clamp_(min=1e-6)
    image[:, :, :3] *= (1 / largest)[:, None, None, None, None]
    image[:, :, 7] = torch.linspace(-1, 1, VIEWS, device=image.device)[:, None, None]
    pixel = torch.linspace(-1, 1, size, device=image.device)
    image[:, :, 8] = pixel[:, None]
    image[:, :, 9] = pixel
    return image


def _seen(cloud: Cloud, centre: Tensor, side: float, size: int) -> _Seen:
    """The z-buffer. Depths are compared as float32, exactly: the bits of positive floats are
    ordered as the numbers are, so that (depth bits, point index) packed into an int64 needs one
    maximum."""
    batch, device = len(centre), cloud.points.device
    place = to_cube(cloud.points, centre.index_select(0, cloud.rows), side).t().contiguous()
    within = (place > 0) & (place < 1)
    inside = (within[0] & within[1] & within[2]).nonzero()[:, 0]
    colours, rows = cloud.colours, cloud.rows
    if len(inside) < len(rows):
        place, rows = place.index_select(1, inside), rows.index_select(0, inside)
        colours = colours.index_select(0, inside)
    place = place.float()
    pixel = (place * size).int().clamp_(max=size - 1)
    bits = (place.view(torch.int32).long() << 32) | torch.arange(len(rows), device=device)

    nearest = torch.full((batch * VIEWS * size * size,), -1, dtype=torch.int64, device=device)
    for view, (row, column, depth) in enumerate(AXES):
        cell = (rows * VIEWS + view) * (size * size) + (pixel[row] * size + pixel[column])
        nearest.scatter_reduce_(0, cell, bits[depth], "amax")
    winner = torch.where(nearest < 0, len(rows), nearest & 0xFFFFFFFF)
    return _Seen(place, colours, winner.view(batch, VIEWS, size, size))
