"""Softmax over a row of logits that is seen tile by tile, in both directions at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib_objectives.blocks import UnitBlock
from mirrorlib_objectives.tiles import Transform, spans

LOOKED_AT = 256
"""Own rows whose nearest row is looked up: enough for a log, and cheap beside large batches."""


@dataclass(frozen=True)
class Negatives:
    """What stands in a tile.

    masked: rows that share the first label are no negatives. plain: tiles hold exponentials and
    sums are kept, instead of logits and log-sum-exps.
    """

    masked: bool
    plain: bool

    @property
    def nothing(self) -> float:
        """What stands where there is no negative."""
        return 0.0 if self.plain else -math.inf

    def transform(
        self, own: UnitBlock, block: UnitBlock, directions: Sequence[Direction] = ()
    ) -> Transform:
        """Turns logits of the own rows and the block's into a tile; tells `directions` what stood
        on the first tile's diagonal."""

        def apply(tile: Tensor, rows: slice, columns: slice) -> None:
            if self.plain:
                tile.exp_()
            if block.own and rows == columns:
                if rows.start == 0:
                    for direction in directions:
                        direction.best = tile.diagonal()[: len(direction.hit)].clone()
                tile.fill_diagonal_(self.nothing)
            if self.masked:
                mine, theirs = own.column(0)[rows], block.column(0)[columns]
                tile.masked_fill_(mine[:, None] == theirs, self.nothing)

        return apply


class Direction:
    """The own rows of one side, and what they have seen of the other so far.

    total: (B,) sums over negatives. best: (S,) the tile's entry for the nearest row so far, at
    first the partner. hit: (S, 1 + L) whether that row is the partner, and whether it is the
    partner or a positive at each level.
    """

    def __init__(self, own: UnitBlock, levels: int, negatives: Negatives) -> None:
        self.own, self.levels, self.negatives = own, levels, negatives
        self.total = own.a.new_full((len(own.a),), negatives.nothing)
        first = min(next(spans(len(own.a)), slice(0, 0)).stop, LOOKED_AT)
        self.best = own.a.new_empty(first)
        self.hit = torch.ones(first, 1 + levels, dtype=torch.bool, device=own.a.device)

    def see(self, rows: slice, tile: Tensor, block: UnitBlock, columns: slice) -> None:
        """tile: (R, C) of the own `rows` and the block's `columns`."""
        if self.negatives.plain:
            self.total[rows] += tile.sum(1)
        else:
            self.total[rows] = torch.logaddexp(self.total[rows], tile.logsumexp(1))
        if rows.start == 0:
            self._look(tile[: len(self.hit)], block, columns)

    def _look(self, tile: Tensor, block: UnitBlock, columns: slice) -> None:
        best = tile.amax(1)
        hit = torch.zeros_like(self.hit)
        for level in range(self.levels):
            mine, theirs = self.own.column(level), block.column(level)[columns]
            others = tile.masked_fill(mine[: len(tile), None] == theirs, self.negatives.nothing)
            hit[:, 1 + level] = others.amax(1) < best
        hit &= self.hit | (best > self.best)[:, None]
        self.hit = torch.where((best < self.best)[:, None], self.hit, hit)
        self.best = torch.maximum(best, self.best)

    def log_total(self) -> Tensor:
        return self.total.log() if self.negatives.plain else self.total


class Softmax:
    """Softmax of some rows over their negatives, times what the loss weighs each row by.

    log_total, weight: (B,).
    """

    def __init__(self, log_total: Tensor, weight: Tensor, plain: bool) -> None:
        self.plain, self.weight = plain, weight
        self.log_total = log_total.masked_fill(log_total == -math.inf, math.inf)
        self.factor = weight * (-self.log_total).exp()

    def weights(self, tile: Tensor, rows: slice, other: Softmax, columns: slice) -> Tensor:
        """Of these `rows` over the tile's columns and of the other's `columns` over its rows,
        together; takes the tile's memory."""
        if self.plain:
            return tile.mul_(self.factor[rows, None] + other.factor[columns])
        across = (tile - other.log_total[columns]).exp_().mul_(other.weight[columns])
        tile.sub_(self.log_total[rows, None]).exp_().mul_(self.weight[rows, None])
        return tile.add_(across)
