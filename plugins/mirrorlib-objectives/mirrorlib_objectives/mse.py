"""Mean squared error as an objective: matching rows are to be the same."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.config import MSEConfig


class MSE(Objective):
    """Mean over rows and dimensions of (u - e)^2.

    As a plain loss: `MSE()(u, e).value`, u, e: (B, Z); 0 or above, in the square of their units.
    Invariant to one rotation and one shift of both sides, not to scale. Uses no labels, and no row
    but a row's own partner, so that nothing keeps the rows apart: it falls, too, where both sides
    shrink to a point.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    batches without rows. Its logs are `loss`, and `square_u` and `square_e`, the mean squares of
    either side's entries: where they fall with the loss, the sides shrink instead of coming
    together.
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
            value = weight * (u - e).square().mean(1).sum()
            squares = [weight * side.detach().square().mean(1).sum() for side in (u, e)]
        return Loss(value, {"loss": value.detach(), "square_u": squares[0], "square_e": squares[1]})


def build_mse(config: MSEConfig) -> MSE:
    return MSE()
