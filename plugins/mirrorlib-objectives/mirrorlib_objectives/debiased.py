"""Debiased contrastive learning (arXiv 2007.00224): some negatives are positives unknown."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mirrorlib.interfaces import Loss, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.config import DebiasedConfig
from mirrorlib_objectives.infonce import similarity_logs
from mirrorlib_objectives.pairs import compare
from mirrorlib_objectives.temperature import TemperedObjective


class Debiased(TemperedObjective):
    """InfoNCE less what rows that should match by chance add to its denominator.

    As a plain loss: `Debiased(class_prior=0.1)(u, e).value`.

    With s_ij = cos(u_i, e_j) / temperature, M = N - 1 negatives and tau+ the chance that one of
    them is a positive, one direction is -log(exp(s_ii) / (exp(s_ii) + M g_i)),

        g_i = max((mean_{j != i} exp(s_ij) - tau+ exp(s_ii)) / (1 - tau+), exp(-1 / temperature))

    (equations 7 and 8, with the partner as the one positive). The value is the mean over rows and
    both directions; at tau+ = 0 it is `InfoNCE`. It uses no labels: it is for data without them.

    forward raises ValueError for shapes that do not match, numbers that are not finite and fewer
    than two rows of all processes. Its logs are those of `InfoNCE`, without the bound.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        class_prior: float = 0.1,
    ) -> None:
        super().__init__(temperature, learnable_temperature)
        self.class_prior = DebiasedConfig(class_prior=class_prior).class_prior

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        minimum = ("Debiased", DebiasedConfig.minimum_rows)
        dtype, weight = check_batch(u, e, labels, world, minimum=minimum)
        scale = self.scale(u, dtype)
        seen = compare(u, e, scale, largest_scale=self.largest_scale(), world=world)
        partner = scale * seen.partner
        count = (len(u) if world is None else world.total) - 1
        losses = [
            softplus(self._negatives(rest, partner, scale, count) - partner, threshold=40)
            for rest in (seen.negatives_u2e, seen.negatives_e2u)
        ]
        value = weight * (losses[0] + losses[1]).sum() / 2
        logs = similarity_logs(value, seen, weight) | {"temperature": 1 / scale.detach()}
        return Loss(value, logs)

    def _negatives(self, rest: Tensor, partner: Tensor, scale: Tensor, count: int) -> Tensor:
        """log(M g_i) from the log-sum-exp over the negatives, (B,)."""
        floor = math.log(count) - scale
        if self.class_prior == 0:
            return torch.maximum(rest, floor)
        share = (partner + math.log(count * self.class_prior) - rest).clamp_max(0).exp()
        some_left = share < 1
        left = torch.log1p(-torch.where(some_left, share, 0.0)) - math.log1p(-self.class_prior)
        return torch.where(some_left, torch.maximum(rest + left, floor), floor)


def build_debiased(config: DebiasedConfig) -> Debiased:
    return Debiased(config.temperature, config.learnable_temperature, config.class_prior)
