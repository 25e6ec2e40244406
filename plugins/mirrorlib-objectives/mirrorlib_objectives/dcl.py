"""Decoupled contrastive learning (arXiv 2110.06848): no positive in the denominator."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.config import DCLConfig
from mirrorlib_objectives.infonce import similarity_logs
from mirrorlib_objectives.pairs import compare
from mirrorlib_objectives.temperature import TemperedObjective


class DCL(TemperedObjective):
    """InfoNCE that goes on pulling a pair together however well it is told apart already.

    As a plain loss: `DCL()(u, e).value`.

    With s_ij = cos(u_i, e_j) / temperature, one direction is -s_ii + log sum_{j in N_i} exp(s_ij),
    N_i all rows but i (equation 6) or, `masked`, those of another label; the value is the mean
    over rows and both directions, and may be negative. A row without negatives counts as 0.

    forward raises ValueError for shapes that do not match, numbers that are not finite and fewer
    than two rows of all processes. Its logs are those of `InfoNCE`, without the bound.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        positives: Literal["diagonal", "masked"] = "masked",
    ) -> None:
        super().__init__(temperature, learnable_temperature)
        self.positives = DCLConfig(positives=positives).positives

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        minimum = ("DCL", DCLConfig.minimum_rows)
        dtype, weight = check_batch(u, e, labels, world, minimum=minimum)
        scale = self.scale(u, dtype)
        seen = compare(
            u,
            e,
            scale,
            largest_scale=self.largest_scale(),
            same_label_is_negative=labels is None or self.positives == "diagonal",
            labels=labels,
            world=world,
        )
        partner = scale * seen.partner
        directions = (seen.negatives_u2e, seen.negatives_e2u)
        losses = [torch.where(rest > -math.inf, rest - partner, 0.0) for rest in directions]
        value = weight * (losses[0] + losses[1]).sum() / 2
        logs = similarity_logs(value, seen, weight) | {"temperature": 1 / scale.detach()}
        return Loss(value, logs)


def build_dcl(config: DCLConfig) -> DCL:
    return DCL(config.temperature, config.learnable_temperature, config.positives)
