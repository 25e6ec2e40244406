"""Three orthographic views of a cube of the world, by an exact z-buffer in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib_arp.clouds import Cloud

AXES = ((0, 1, 2), (1, 2, 0), (0, 2, 1))
"""For each view the world axes of a picture's rows, of its columns, and of its depth, the largest
coordinate being nearest: from the top, from the front (+x) and from the left (+y)."""

VIEWS = len(AXES)
CHANNELS = 7


def to_cube(points: Tensor, centre: Tensor, side: float) -> Tensor:
    """World points as cube coordinates, 0 to 1 along each axis. All but `side`: (..., 3)."""
    return (points - centre) / side + 0.5


def from_cube(coordinates: Tensor, centre: Tensor, side: float) -> Tensor:
    """The inverse of `to_cube`."""
    return (coordinates - 0.5) * side + centre


def render(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
    """Each pixel shows the nearest point that falls into it; of equally near ones the last.

    Depths are compared as float32, exactly: the bits of positive floats are ordered as the
    numbers are, so that (depth bits, point index) packed into an int64 needs one maximum.
    No gradient; deterministic on every device.

    centre: (B, 3) of each row's cube. side: of the cube, metres. size: S pixels a side.
    Returns (B, 3, 7, S, S) float32: cube coordinates and colour, both in [-1, 1], and occupancy.
    """
    batch = len(centre)
    place = to_cube(cloud.points, centre.index_select(0, cloud.rows), side)
    inside = ((place > 0) & (place < 1)).all(-1).nonzero()[:, 0]
    place, rows = place.index_select(0, inside).float(), cloud.rows.index_select(0, inside)
    pixel = (place * size).long().clamp_(max=size - 1)
    index = torch.arange(len(place), device=place.device)

    nearest = torch.full((batch * VIEWS * size * size,), -1, dtype=torch.int64, device=place.device)
    bits = place.view(torch.int32).long() << 32
    for view, (row, column, depth) in enumerate(AXES):
        cell = ((rows * VIEWS + view) * size + pixel[:, row]) * size + pixel[:, column]
        nearest.scatter_reduce_(0, cell, bits[:, depth] | index, "amax")

    hit = (nearest >= 0).nonzero()[:, 0]
    winner = nearest[hit] & 0xFFFFFFFF
    image = torch.zeros(len(nearest), CHANNELS, device=place.device)
    image[hit] = torch.cat(
        [
            place[winner] * 2 - 1,
            cloud.colours[inside[winner]].float() / 127.5 - 1,
            torch.ones(len(hit), 1, device=place.device),
        ],
        1,
    )
    return image.view(batch, VIEWS, size, size, CHANNELS).permute(0, 1, 4, 2, 3)
