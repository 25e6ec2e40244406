"""Barlow Twins: the cross-correlation of the two sides' dimensions is to be the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import gather_batch
from mirrorlib_objectives.columns import off_diagonal_square, unit_columns
from mirrorlib_objectives.config import BarlowConfig


class Barlow(Objective):
    """sum_j (1 - C_jj)^2 + redundancy sum_{j != k} C_jk^2, where C_jk is the correlation of
    dimension j of u with dimension k of e over the N rows of all processes.

    As a plain loss: `Barlow()(u, e).value`, u, e: (B, Z) with at least 2 rows; between 0 and
    4 Z + redundancy Z (Z - 1), so that it grows with Z. Zbontar et al., arXiv 2103.03230,
    equations 1 and 2, with lambda = 0.005.

    Invariant to the scale and the shift of every dimension of either side, not to rotation. Uses
    no labels. Every process computes it of all processes' rows. A dimension that is constant up
    to rounding has correlation 0 with all others and gets no gradient; on either side it costs 1.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    fewer than 2 rows of all processes. Its logs are `loss`, the unweighted sums `on_diagonal` and
    `off_diagonal`, `correlation`, the mean C_jj, and `constant_u` and `constant_e`, the share of
    dimensions that are constant: 1 for a side that is collapsed.
    """

    def __init__(self, redundancy: float = 5e-3) -> None:
        super().__init__()
        self.redundancy = BarlowConfig(redundancy=redundancy).redundancy

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            minimum = ("Barlow", BarlowConfig.minimum_rows)
            batch = gather_batch(u, e, labels, world, minimum)
            (unit_u, constant_u), (unit_e, constant_e) = map(unit_columns, (batch.u, batch.e))
            diagonal = (unit_u * unit_e).sum(0)
            on_diagonal = (1 - diagonal).square().sum()
            off_diagonal = off_diagonal_square(unit_u, unit_e)
            value = on_diagonal + self.redundancy * off_diagonal
        logs = {
            "loss": value,
            "on_diagonal": on_diagonal,
            "off_diagonal": off_diagonal,
            "correlation": diagonal.mean(),
            "constant_u": constant_u.to(value.dtype).mean(),
            "constant_e": constant_e.to(value.dtype).mean(),
        }
        return Loss(value, {name: log.detach() for name, log in logs.items()})


def build_barlow(config: BarlowConfig) -> Barlow:
    return Barlow(config.redundancy)
