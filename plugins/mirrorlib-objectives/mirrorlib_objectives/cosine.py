"""Cosine similarity as an objective: matching rows are to point the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import check_batch, unit_rows
from mirrorlib_objectives.config import CosineConfig


class Cosine(Objective):
    """One minus the mean over rows of cos(u_i, e_i).

    As a plain loss: `Cosine()(u, e).value`, u, e: (B, Z); between 0 and 2, about 1 for rows that
    have nothing to do with each other. REPA's term, whose mean of similarities is maximised
    (Yu et al., arXiv 2410.06940, L_REPA with the cosine as sim), moved by 1 so that it ends at 0.

    Invariant to the length of every row, and to one rotation of both sides. Uses no labels, and no
    row but a row's own partner, so that nothing keeps the rows apart: it falls, too, where all rows
    come to point one way. A row of zeros has cosine 0 and neither it nor its partner a gradient.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    batches without rows. Its logs are `loss` and `cosine`, the mean cosine of matching rows.
    """

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            dtype, weight = check_batch(u, e, labels, world)
            u, e = u.to(dtype), e.to(dtype)
            cosine = (unit_rows(u) * unit_rows(e)).sum(1)
            value = weight * (1 - cosine).sum()
            logs = {"loss": value.detach(), "cosine": weight * cosine.detach().sum()}
        return Loss(value, logs)


def build_cosine(config: CosineConfig) -> Cosine:
    return Cosine()
