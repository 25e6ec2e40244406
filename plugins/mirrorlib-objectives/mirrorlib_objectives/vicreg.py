"""VICReg: matching rows alike, every dimension spread, no two dimensions redundant."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import gather_batch
from mirrorlib_objectives.columns import off_diagonal_square
from mirrorlib_objectives.config import VICRegConfig

TARGET = 1.0
"""gamma, the deviation below which a dimension is pushed apart."""

EPSILON = 1e-4
"""Added to a variance before its square root, whose slope at 0 is infinite."""


class VICReg(Objective):
    """invariance s(u, e) + variance (v(u) + v(e)) + covariance (c(u) + c(e)), with

    - s(u, e) = 1 / (N Z) sum_ij (u_ij - e_ij)^2;
    - v(x) = 1 / Z sum_j max(0, 1 - sqrt(C_jj + 1e-4));
    - c(x) = 1 / Z sum_{j != k} C_jk^2;
    - C = 1 / (N - 1) sum_i (x_i - mean) (x_i - mean)^T, over the N rows of all processes.

    As a plain loss: `VICReg()(u, e).value`, u, e: (B, Z) with at least 2 rows; 0 or above. Bardes
    et al., arXiv 2105.04906: equations 1 to 4 and 6, weights 25, 25 and 1. s is Algorithm 1's mean
    over rows and dimensions, which these weights belong to; the text's equation 5 leaves 1 / Z out.

    Invariant to one shift of both sides, not to scale, which v sets, nor to rotation. Uses no
    labels. Every process computes it of all processes' rows. A constant dimension costs its v and
    gets a gradient from s alone: v has none where all entries are equal. In float32 c is good to
    0.3 % where one dimension's deviation is a thousand times the others'.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    fewer than 2 rows of all processes. Its logs are `loss`, the unweighted terms `invariance`,
    `variance_u`, `variance_e`, `covariance_u` and `covariance_e`, and `narrow_u` and `narrow_e`,
    the share of dimensions with sqrt(C_jj + 1e-4) below 1: 1 for a side that is collapsed.
    """

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__()
        self.weights = VICRegConfig(invariance=invariance, variance=variance, covariance=covariance)

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            minimum = ("VICReg", VICRegConfig.minimum_rows)
            batch = gather_batch(u, e, labels, world, minimum)
            invariance = (batch.u - batch.e).square().mean()
            variance_u, covariance_u, narrow_u = spread_terms(batch.u)
            variance_e, covariance_e, narrow_e = spread_terms(batch.e)
            value = (
                self.weights.invariance * invariance
                + self.weights.variance * (variance_u + variance_e)
                + self.weights.covariance * (covariance_u + covariance_e)
            )
        logs = {
            "loss": value,
            "invariance": invariance,
            "variance_u": variance_u,
            "variance_e": variance_e,
            "covariance_u": covariance_u,
            "covariance_e": covariance_e,
            "narrow_u": narrow_u,
            "narrow_e": narrow_e,
        }
        return Loss(value, {name: log.detach() for name, log in logs.items()})


def spread_terms(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v(x), c(x) and the share of dimensions below the target, each (). x: (N, Z)."""
    count, width = x.shape
    rows = x - x.mean(0)
    variances = rows.square().sum(0) / (count - 1)
    shortfall = (TARGET - (variances + EPSILON).sqrt()).clamp_min(0)
    covariance = off_diagonal_square(rows, rows) / (count - 1) ** 2 / width
    return shortfall.mean(), covariance, (shortfall > 0).to(x.dtype).mean()


def build_vicreg(config: VICRegConfig) -> VICReg:
    return VICReg(config.invariance, config.variance, config.covariance)
