"""The logits of all pairs, one tile at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 1024
"""Rows and columns of a tile on the CPU, where it fits the caches."""
GPU_TILE = 8192
"""Elsewhere, where small products would leave the device waiting."""
CACHE_BYTES = 2**29
"""Tiles are kept for the backward pass where all of a process fit into this."""

Transform = Callable[[Tensor, slice, slice], None]


class LogitTiles:
    """scale * x y^T in tiles of at most TILE rows and columns, each transformed in place.

    Memory is one tile, or all of them where `keep`: then a second sweep over the same pair reads
    each kept tile once, and computes it anew after that.
    """

    def __init__(self, scale: Tensor, keep: bool) -> None:
        self.scale, self.keep = scale, keep
        self.kept: dict[tuple[object, int, int], Tensor] = {}

    def sweep(
        self, pair: object, x: Tensor, y: Tensor, transform: Transform
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and the tile, which is the caller's until the next is asked for.

        x: (B, Z), y: (C, Z). pair: what the kept tiles of x and y are known by.
        """
        buffer = x.new_empty(0)
        size = TILE if x.device.type == "cpu" else GPU_TILE
        for rows in spans(len(x), size):
            scaled = None
            for columns in spans(len(y), size):
                key = (pair, rows.start, columns.start)
                tile = self.kept.pop(key, None)
                if tile is None:
                    if scaled is None:
                        scaled = x[rows] * self.scale
                    shape = (len(scaled), columns.stop - columns.start)
                    if self.keep or buffer.numel() < shape[0] * shape[1]:
                        buffer = x.new_empty(shape[0] * shape[1])
                    tile = buffer[: shape[0] * shape[1]].view(shape)
                    torch.mm(scaled, y[columns].T, out=tile)
                    transform(tile, rows, columns)
                    if self.keep:
                        self.kept[key] = tile
                yield rows, columns, tile


def fits(logits: int, dtype: torch.dtype) -> bool:
    """Whether so many logits may be kept."""
    return logits * dtype.itemsize <= CACHE_BYTES


def spans(count: int, size: int | None = None) -> Iterator[slice]:
    """Slices of at most `size`, or TILE, that cover `count`."""
    size = size or TILE
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
