"""Distillation of similarities: which rows are alike on one side is taught to the other."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import Batch, gather_batch, unit_rows
from mirrorlib_objectives.config import DistillConfig


class Distill(Objective):
    """Mean over rows i of KL(p_i || q_i), where, with t the teacher's rows and s the learner's,

    - p_i = softmax over j != i of cos(t_i, t_j) / teacher_temperature;
    - q_i = softmax over j != i of cos(s_i, s_j) / temperature.

    As a plain loss: `Distill()(u, e).value`, u, e: (B, Z) with at least 3 rows; 0 or above, in
    nats. `teacher` is `observer` (u teaches e) or `executor` (e teaches u); its gradient is zero.
    Closest to it are SEED (Fang et al., arXiv 2101.04731), whose softmax of similarities is over a
    queue of the teacher's rows, and relational knowledge distillation (Park et al., arXiv
    1904.05068), which matches distances and angles among a batch's rows.

    It does not ask u_i and e_i to be close: either side may be rotated, and its rows scaled, at
    will, so that retrieval from one side to the other may stay at chance. Read it through a fresh
    probe. A collapsed teacher asks the learner to collapse. The teacher's projector never learns
    from it: `identity` and `linear` keep what the encoder knows. Uses no labels. Rows of zeros
    have cosine 0 with every row and get no gradient of their own. Holds several (B, N) matrices.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    fewer than 3 rows of all processes. Its logs are `loss`, `agreement`, the share of rows whose
    nearest other row is the same on both sides, and `entropy_teacher` and `entropy_learner`, the
    mean entropy of p_i and q_i in nats: log(N - 1) for a side that is collapsed.
    """

    def __init__(
        self,
        teacher: Literal["observer", "executor"] = "observer",
        temperature: float = 0.1,
        teacher_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.options = DistillConfig(
            teacher=teacher, temperature=temperature, teacher_temperature=teacher_temperature
        )

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            minimum = ("Distill", DistillConfig.minimum_rows)
            batch = gather_batch(u, e, labels, world, minimum)
            u_teaches = self.options.teacher == "observer"
            sides = (batch.u, batch.e) if u_teaches else (batch.e, batch.u)
            taught = log_similarities(
                sides[0].detach(), batch.rows, self.options.teacher_temperature
            )
            learnt = log_similarities(sides[1], batch.rows, self.options.temperature)
            divergence = (taught.exp() * (taught - learnt)).sum(1)
            value = batch.weight * divergence.sum()
            value = value + (0 * (u if u_teaches else e)).sum()  # a zero gradient, not none
        return Loss(value, _logs(value.detach(), taught, learnt.detach(), batch))


def log_similarities(x: Tensor, rows: slice, temperature: float) -> Tensor:
    """log softmax over the other rows of the cosines of the rows in `rows` with all.

    x: (N, Z). Returns (B, N), with 0 in place of every row's own -inf.
    """
    unit = unit_rows(x)
    logits = _set_own(unit[rows] @ unit.T / temperature, rows, -math.inf)
    return _set_own(logits.log_softmax(1), rows, 0.0)


def _set_own(x: Tensor, rows: slice, value: float) -> Tensor:
    """x: (B, N) with `value` where a row meets itself."""
    return x.diagonal_scatter(x.new_full((len(x),), value), rows.start)


def _logs(value: Tensor, taught: Tensor, learnt: Tensor, batch: Batch) -> dict[str, Tensor]:
    nearest = [_set_own(side, batch.rows, -math.inf).argmax(1) for side in (taught, learnt)]
    entropies = [-(side.exp() * side).sum() for side in (taught, learnt)]
    return {
        "loss": value,
        "agreement": batch.weight * (nearest[0] == nearest[1]).to(value.dtype).sum(),
        "entropy_teacher": batch.weight * entropies[0],
        "entropy_learner": batch.weight * entropies[1],
    }


def build_distill(config: DistillConfig) -> Distill:
    return Distill(config.teacher, config.temperature, config.teacher_temperature)
