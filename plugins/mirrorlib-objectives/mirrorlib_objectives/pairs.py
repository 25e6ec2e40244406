"""What every row sees of all rows of the other side, in the memory of one tile of logits.

Contrastive objectives are functions of a few numbers a row: the cosine with its partner, the
log-sum-exp over its negatives, the mean cosine with its positives. `compare` computes them for the
own rows of each side, and their gradients by hand:

- where one process holds the batch, each logit is computed once for both directions;
- positives enter through the sum of their unit rows: no mask of pairs is made;
- across processes rows travel, never their gradients: to know its own, a process needs of the
  others' rows only the rows, their log-sum-exps and what the loss weighs these by.

With u and e of s bytes a number, L columns of labels (8 bytes each; where there are some they
travel), of which l are compared, results of s' bytes a number and B' rows in the next process, each
process sends (N - B') (2 Z s + 8 L) bytes forward and (N - B') (2 Z s + 8 L + 4 s' + 2 l s')
backward, besides the number of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mirrorlib.interfaces import World
from mirrorlib_objectives.blocks import UnitBlock, exact_products, stream
from mirrorlib_objectives.classes import Classes, ClassSums
from mirrorlib_objectives.rows import row_dots, to_unit, to_unit_backward
from mirrorlib_objectives.softmax import Direction, Negatives, Softmax
from mirrorlib_objectives.tiles import LogitTiles, fits

LARGEST_PLAIN_SCALE = 60.0
"""Up to here exp(scale * cosine), its sums and their inverses are normal float32 numbers."""


@dataclass(frozen=True)
class Comparison:
    """Of the own rows; `_u2e` is u against all e, `_e2u` is e against all u.

    partner: (B,) cosine of u_i and e_i. negatives: (B,) log-sum-exp of scale * cosine, -inf where
    a row has none. positives: (B, L) by how much the mean cosine with the rows of equal label, the
    partner included, exceeds the partner's, at each of L levels. nearest: (S, 1 + L) bool, without
    gradient, of the first S = min(B, 256) rows: whether the row of highest cosine is the partner,
    and whether it is the partner or a positive of each level; a tie counts against the row.
    """

    partner: Tensor
    negatives_u2e: Tensor
    negatives_e2u: Tensor
    positives_u2e: Tensor
    positives_e2u: Tensor
    nearest_u2e: Tensor
    nearest_e2u: Tensor


def compare(
    u: Tensor,
    e: Tensor,
    scale: Tensor,
    *,
    largest_scale: float,
    levels: int = 0,
    same_label_is_negative: bool = True,
    labels: Tensor | None = None,
    world: World | None = None,
) -> Comparison:
    """Compares the own rows u, e: (B, Z) with the rows of all processes.

    scale: () in the dtype of the result, float32 or wider. largest_scale: what it is known not to
    exceed. labels: (B,) or (B, 3), of which the first `levels` columns say what is positive.
    same_label_is_negative: where False, rows that share the first label are no negatives.
    """
    plain = largest_scale <= LARGEST_PLAIN_SCALE
    negatives = Negatives(not same_label_is_negative, plain)
    plan = _Plan(labels, levels, negatives, world, torch.is_grad_enabled())
    return Comparison(*_Compare.apply(u, e, scale, plan))


@dataclass(frozen=True)
class _Plan:
    labels: Tensor | None
    levels: int
    negatives: Negatives
    world: World | None
    differentiable: bool


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, e: Tensor, scale: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        a, inverse_a = to_unit(u, scale.dtype)
        b, inverse_b = to_unit(e, scale.dtype)
        own = UnitBlock(0, a, b, plan.labels, ())
        total = len(u) if plan.world is None else plan.world.total
        logits = len(u) * (2 * total - len(u))
        ctx.work = logits * a.shape[1]
        keep = plan.differentiable and any(ctx.needs_input_grad) and fits(logits, scale.dtype)
        tiles = LogitTiles(scale, keep)
        directions = [Direction(own, plan.levels, plan.negatives) for _ in "ue"]
        levels = [Classes(own.column(level)) for level in range(plan.levels)]
        sums = [[ClassSums(classes, a) for _ in "ue"] for classes in levels]
        with exact_products(a.device, ctx.work):
            for block in stream(own, plan.world):
                _see(tiles, own, block, directions, plan.negatives)
                for level, (classes, (sum_a, sum_b)) in enumerate(zip(levels, sums, strict=True)):
                    found = classes.find(block.column(level))
                    classes.count(found)
                    sum_a.add(block.a, found)
                    sum_b.add(block.b, found)
        tiles.keep = False
        totals = [direction.log_total() for direction in directions]
        nearest = [direction.hit for direction in directions]
        positives_u2e = _columns([sum_b.excess(a, b) for _, sum_b in sums], a)
        positives_e2u = _columns([sum_a.excess(b, a) for sum_a, _ in sums], b)
        ctx.mark_non_differentiable(*nearest)
        ctx.plan, ctx.tiles, ctx.levels, ctx.dtypes = plan, tiles, levels, (u.dtype, e.dtype)
        ctx.save_for_backward(scale, a, b, inverse_a, inverse_b, *totals)
        return row_dots(a, b), *totals, positives_u2e, positives_e2u, *nearest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_partner, of_u2e, of_e2u, of_a, of_b = gradients[:5]
        scale, a, b, inverse_a, inverse_b, *totals = ctx.saved_tensors
        plan, own = ctx.plan, UnitBlock(0, a, b, ctx.plan.labels, ())
        da, db = torch.zeros_like(a), torch.zeros_like(b)
        extra = torch.stack([*totals, scale * of_u2e, scale * of_e2u], 1)
        sums = [[ClassSums(classes, a) for _ in range(4)] for classes in ctx.levels]
        with exact_products(a.device, ctx.work):
            for block in stream(own, plan.world, extra, of_a, of_b):
                _pull(ctx.tiles, own, block, extra, (da, db), plan.negatives)
                for level, (sum_a, weighted_a, sum_b, weighted_b) in enumerate(sums):
                    found = ctx.levels[level].find(block.column(level))
                    sum_a.add(block.a, found)
                    sum_b.add(block.b, found)
                    weighted_a.add(block.a, found, block.extra[1][:, level])
                    weighted_b.add(block.b, found, block.extra[2][:, level])
        d_scale = row_dots(a, da).sum() / scale if ctx.needs_input_grad[2] else None
        for level, (sum_a, weighted_a, sum_b, weighted_b) in enumerate(sums):
            sum_b.add_excess(da, b, of_a[:, level])
            weighted_b.add_excess(da, b * of_b[:, level, None])
            sum_a.add_excess(db, a, of_b[:, level])
            weighted_a.add_excess(db, a * of_a[:, level, None])
        da.addcmul_(b, of_partner[:, None])
        db.addcmul_(a, of_partner[:, None])
        du = to_unit_backward(da, a, inverse_a).to(ctx.dtypes[0])
        de = to_unit_backward(db, b, inverse_b).to(ctx.dtypes[1])
        return du, de, d_scale, None


def _see(
    tiles: LogitTiles,
    own: UnitBlock,
    block: UnitBlock,
    directions: list[Direction],
    negatives: Negatives,
) -> None:
    """Shows the own rows of each side the block's rows of the other."""
    u2e, e2u = directions
    if block.own:
        transform = negatives.transform(own, block, directions)
        for rows, columns, tile in tiles.sweep("own", own.a, own.b, transform):
            u2e.see(rows, tile, block, columns)
            e2u.see(columns, tile.T, block, rows)
        return
    transform = negatives.transform(own, block)
    for direction, x, y in ((u2e, own.a, block.b), (e2u, own.b, block.a)):
        for rows, columns, tile in tiles.sweep((block.number, x is own.a), x, y, transform):
            direction.see(rows, tile, block, columns)


def _pull(
    tiles: LogitTiles,
    own: UnitBlock,
    block: UnitBlock,
    extra: Tensor,
    gradients: tuple[Tensor, Tensor],
    negatives: Negatives,
) -> None:
    """Adds to the own rows' gradients what comes through the logits with a block's rows.

    extra: (B, 4) log totals of both directions, and what the loss weighs them by; the block's own
    is the first of what it brings.
    """
    da, db = gradients
    u2e, e2u = _softmaxes(extra, negatives)
    their_u2e, their_e2u = _softmaxes(block.extra[0], negatives)
    transform = negatives.transform(own, block)
    if block.own:
        for rows, columns, tile in tiles.sweep("own", own.a, own.b, transform):
            weights = u2e.weights(tile, rows, e2u, columns)
            da[rows].addmm_(weights, own.b[columns])
            db[columns].addmm_(weights.T, own.a[rows])
        return
    for x, y, dx, mine, theirs in (
        (own.a, block.b, da, u2e, their_e2u),
        (own.b, block.a, db, e2u, their_u2e),
    ):
        for rows, columns, tile in tiles.sweep((block.number, x is own.a), x, y, transform):
            dx[rows].addmm_(mine.weights(tile, rows, theirs, columns), y[columns])


def _softmaxes(extra: Tensor, negatives: Negatives) -> tuple[Softmax, Softmax]:
    log_u2e, log_e2u, of_u2e, of_e2u = extra.unbind(1)
    plain = negatives.plain
    return Softmax(log_u2e, of_u2e, plain), Softmax(log_e2u, of_e2u, plain)


def _columns(columns: list[Tensor], like: Tensor) -> Tensor:
    """(B, L) of L columns (B,)."""
    return torch.stack(columns, 1) if columns else like.new_empty(len(like), 0)
