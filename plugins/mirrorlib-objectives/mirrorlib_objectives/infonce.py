"""InfoNCE, the paper's objective (arXiv 2509.21136), with a choice of positives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import Batch, gather_batch, unit_rows
from mirrorlib_objectives.config import (
    LARGEST_LEARNABLE_TEMPERATURE,
    SMALLEST_LEARNABLE_TEMPERATURE,
    InfoNCEConfig,
    Positives,
)


class InfoNCE(Objective):
    """Bidirectional InfoNCE: pick out each row's partner among all rows, by cosine.

    As a plain loss: `InfoNCE(temperature=0.1)(u, e).value`.

    With s_ij = cos(u_i, e_j) / temperature and positives P_i of row i, one direction is

    - diagonal: -log softmax_j(s_ij)_i, the paper's formula to the letter;
    - multi: the mean over p in P_i of -log softmax_j(s_ij)_p, L_out of SupCon (arXiv 2004.11362,
      equation 2), where P_i holds the rows with i's label, i itself included;
    - masked: as diagonal, the other rows with i's label left out of the denominator.

    The value is the mean over rows and over both directions. Without labels all three are the
    diagonal. A learnable temperature is stored as the logarithm of its inverse. Rows of zeros
    have cosine 0 with every row.

    forward raises ValueError for shapes that do not match, and for batches without rows. Its logs
    are `loss`, `accuracy_u2e` and `accuracy_e2u` (share of rows whose nearest row is a positive),
    `temperature` and, where only the diagonal counts, `mutual_information_bound`: log N - loss,
    in nats (van den Oord et al., arXiv 1807.03748).
    """

    log_scale: nn.Parameter | None

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        positives: Positives = "multi",
    ) -> None:
        super().__init__()
        config = InfoNCEConfig(
            temperature=temperature,
            learnable_temperature=learnable_temperature,
            positives=positives,
        )
        self.temperature = config.temperature
        self.positives = config.positives
        start = torch.tensor(-math.log(temperature))
        self.log_scale = nn.Parameter(start) if learnable_temperature else None

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            batch = gather_batch(u, e, labels, world)
            scale = self._scale(batch.u)
            unit_u, unit_e = unit_rows(batch.u), unit_rows(batch.e)
            u2e = infonce_rows(unit_u, unit_e, batch.labels, batch.rows, scale, self.positives)
            e2u = infonce_rows(unit_e, unit_u, batch.labels, batch.rows, scale, self.positives)
            value = batch.weight * (u2e.loss.sum() + e2u.loss.sum()) / 2
        return Loss(value, self._logs(value, u2e, e2u, batch, scale))

    def after_step(self) -> None:
        """Keep a learnable temperature between 0.01 and 1."""
        if self.log_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(
                    -math.log(LARGEST_LEARNABLE_TEMPERATURE),
                    -math.log(SMALLEST_LEARNABLE_TEMPERATURE),
                )

    def _scale(self, like: Tensor) -> Tensor:
        if self.log_scale is None:
            return like.new_tensor(1 / self.temperature)
        return self.log_scale.to(like.dtype).exp()

    def _logs(
        self, value: Tensor, u2e: RowLosses, e2u: RowLosses, batch: Batch, scale: Tensor
    ) -> dict[str, Tensor]:
        logs = {
            "loss": value.detach(),
            "accuracy_u2e": batch.weight * u2e.correct.sum(),
            "accuracy_e2u": batch.weight * e2u.correct.sum(),
            "temperature": 1 / scale.detach(),
        }
        if self.positives == "diagonal" or batch.labels is None:
            logs["mutual_information_bound"] = math.log(len(batch.u)) - value.detach()
        return logs


@dataclass(frozen=True)
class RowLosses:
    """loss: (B,). correct: (B,) bool, whether the best candidate is a positive."""

    loss: Tensor
    correct: Tensor


def infonce_rows(
    anchors: Tensor,
    candidates: Tensor,
    labels: Tensor | None,
    rows: slice,
    scale: Tensor,
    positives: Positives,
) -> RowLosses:
    """InfoNCE of the anchors in `rows` against all candidates, in one direction.

    anchors, candidates: (N, Z) of unit length, row i of one the partner of row i of the other.
    labels: (N,) int64 or None. scale: (), the inverse temperature.
    """
    logits = scale * anchors[rows] @ candidates.T
    partner = torch.arange(len(candidates), device=logits.device)[rows]
    if labels is None or positives == "diagonal":
        positive = nn.functional.one_hot(partner, len(candidates)).bool()
    else:
        positive = labels[rows, None] == labels
    if positives == "masked":
        excluded = positive.scatter(1, partner[:, None], False)
        logits = logits.masked_fill(excluded, -math.inf)
    if positives == "multi":
        attraction = (logits * positive).sum(1) / positive.sum(1)
    else:
        attraction = logits.gather(1, partner[:, None]).squeeze(1)
    best = logits.detach().argmax(1, keepdim=True)
    return RowLosses(logits.logsumexp(1) - attraction, positive.gather(1, best).squeeze(1))


def build_infonce(config: InfoNCEConfig) -> InfoNCE:
    return InfoNCE(config.temperature, config.learnable_temperature, config.positives)
