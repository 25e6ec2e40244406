"""SigLIP (arXiv 2303.15343): every pair judged by itself, a sigmoid in place of the softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from mirrorlib.interfaces import Loss, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.blocks import UnitBlock, exact_products, stream
from mirrorlib_objectives.config import Positives, SigLIPConfig
from mirrorlib_objectives.rows import row_dots, to_unit, to_unit_backward
from mirrorlib_objectives.temperature import TemperedObjective
from mirrorlib_objectives.tiles import LogitTiles, Transform, fits


class SigLIP(TemperedObjective):
    """Tell for every pair by itself whether it matches.

    As a plain loss: `SigLIP()(u, e).value`.

    With x_ij = cos(u_i, e_j) / temperature + bias and z_ij = 1 where row j of e is positive to row
    i of u, else -1, the value is 1/N sum_ij -log sigmoid(z_ij x_ij) (equation 1). Positive is the
    partner and, with labels, as `positives` says: `multi`, every row with i's label; `masked`, the
    partner alone, the other rows with its label left out; `diagonal`, the partner alone.
    Temperature (stored as the logarithm of its inverse) and bias are learnt; the bias starts low,
    for all but one in N pairs do not match. No row sees the sum over a batch, so a pair's gradient
    does not depend on which other rows it is with.

    forward raises ValueError for shapes that do not match, numbers that are not finite and batches
    without rows. Its logs are `loss`, `cosine` (mean of matching rows), `cosine_any` (mean of any
    two rows; equal to `cosine` in a space that has collapsed to a point), `temperature` and
    `bias`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = True,
        bias: float = -10.0,
        positives: Positives = "multi",
    ) -> None:
        super().__init__(temperature, learnable_temperature)
        options = SigLIPConfig(bias=bias, positives=positives)
        self.bias = nn.Parameter(torch.tensor(options.bias))
        self.positives = options.positives

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        dtype, weight = check_batch(u, e, labels, world)
        scale, bias = self.scale(u, dtype), self.bias.to(dtype)
        positives = "diagonal" if labels is None else self.positives
        plan = _Plan(labels, positives, world, torch.is_grad_enabled())
        losses, cosine, any_two = _Sigmoid.apply(u, e, scale, bias, plan)
        value = weight * losses.sum()
        logs = {
            "loss": value.detach(),
            "cosine": weight * cosine.sum(),
            "cosine_any": weight * any_two.sum(),
            "temperature": 1 / scale.detach(),
            "bias": bias.detach(),
        }
        return Loss(value, logs)


@dataclass(frozen=True)
class _Plan:
    labels: Tensor | None
    positives: Positives
    world: World | None
    differentiable: bool

    def turn(self, own: UnitBlock, block: UnitBlock, left_out: float) -> Transform:
        """Changes the sign of a tile's positives; what is left out becomes `left_out`."""

        def apply(tile: Tensor, rows: slice, columns: slice) -> None:
            partner = tile.diagonal().clone() if block.own and rows == columns else None
            if self.positives != "diagonal":
                same = own.column(0)[rows, None] == block.column(0)[columns]
                if self.positives == "masked":
                    tile.masked_fill_(same, left_out)
                else:
                    tile.copy_(torch.where(same, -tile, tile))
            if partner is not None:
                tile.diagonal().copy_(-partner)

        return apply

    def transform(self, own: UnitBlock, block: UnitBlock, bias: Tensor) -> Transform:
        turn = self.turn(own, block, -math.inf)

        def apply(tile: Tensor, rows: slice, columns: slice) -> None:
            turn(tile.add_(bias), rows, columns)

        return apply


class _Sigmoid(torch.autograd.Function):
    """Of the own rows of u: the loss over all e, the cosine with the partner, and that with the
    mean of all e, (B,) each. Tiles hold -z_ij x_ij."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, e: Tensor, scale: Tensor, bias: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, inverse_a = to_unit(u, scale.dtype)
        b, inverse_b = to_unit(e, scale.dtype)
        own = UnitBlock(0, a, b, plan.labels, ())
        total = len(u) if plan.world is None else plan.world.total
        logits = len(u) * (2 * total - len(u))
        ctx.work = logits * a.shape[1]
        keep = plan.differentiable and any(ctx.needs_input_grad) and fits(logits, scale.dtype)
        tiles, losses = LogitTiles(scale, keep), a.new_zeros(len(a))
        mean_b = b.new_zeros(b.shape[1])
        with exact_products(a.device, ctx.work):
            for block in stream(own, plan.world):
                transform = plan.transform(own, block, bias)
                for rows, _, tile in tiles.sweep(block.number, a, block.b, transform):
                    losses[rows] += softplus(tile, threshold=40).sum(1)
                mean_b += block.b.sum(0) / total
            any_two = a @ mean_b
        tiles.keep = False
        cosine = row_dots(a, b)
        ctx.mark_non_differentiable(cosine, any_two)
        ctx.plan, ctx.tiles, ctx.dtypes = plan, tiles, (u.dtype, e.dtype)
        ctx.save_for_backward(scale, bias, a, b, inverse_a, inverse_b)
        return losses, cosine, any_two

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scale, bias, a, b, inverse_a, inverse_b = ctx.saved_tensors
        plan, own = ctx.plan, UnitBlock(0, a, b, ctx.plan.labels, ())
        da, db, d_bias = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(bias)
        with exact_products(a.device, ctx.work):
            for block in stream(own, plan.world, of_losses):
                transform = plan.transform(own, block, bias)
                turn = plan.turn(own, block, 0.0)
                for rows, columns, tile in ctx.tiles.sweep(block.number, a, block.b, transform):
                    turn(tile.sigmoid_().mul_(of_losses[rows, None]), rows, columns)
                    d_bias += tile.sum()
                    da[rows].addmm_(tile, block.b[columns])
                    if block.own:
                        db[columns].addmm_(tile.T, a[rows])
                if not block.own:
                    for rows, columns, tile in ctx.tiles.sweep("back", b, block.a, transform):
                        turn(tile.sigmoid_().mul_(block.extra[0][columns]), rows, columns)
                        db[rows].addmm_(tile, block.a[columns])
        d_scale = row_dots(a, da).sum()
        du = to_unit_backward(da.mul_(scale), a, inverse_a).to(ctx.dtypes[0])
        de = to_unit_backward(db.mul_(scale), b, inverse_b).to(ctx.dtypes[1])
        return du, de, d_scale, d_bias, None


def build_siglip(config: SigLIPConfig) -> SigLIP:
    return SigLIP(config.temperature, config.learnable_temperature, config.bias, config.positives)
