"""InfoNCE, the paper's objective (arXiv 2509.21136), with a choice of positives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import softplus

from mirrorlib.interfaces import Loss, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.config import InfoNCEConfig, Positives
from mirrorlib_objectives.pairs import Comparison, compare
from mirrorlib_objectives.temperature import TemperedObjective


class InfoNCE(TemperedObjective):
    """Bidirectional InfoNCE: pick out each row's partner among all rows, by cosine.

    As a plain loss: `InfoNCE(temperature=0.1)(u, e).value`.

    With s_ij = cos(u_i, e_j) / temperature and positives P_i of row i, one direction is

    - diagonal: -log softmax_j(s_ij)_i, the paper's formula to the letter;
    - multi: the mean over p in P_i of -log softmax_j(s_ij)_p, L_out of SupCon (arXiv 2004.11362,
      equation 2), where P_i holds the rows with i's label, i itself included;
    - masked: as diagonal, the other rows with i's label left out of the denominator.

    The value is the mean over rows and over both directions. Without labels all three are the
    diagonal. Rows of zeros have cosine 0 with every row, and get no gradient. Memory grows with
    N, not N^2, once N^2 logits exceed `mirrorlib_objectives.tiles.CACHE_BYTES`.

    forward raises ValueError for shapes that do not match, numbers that are not finite and batches
    without rows. Its logs are `loss`, `cosine` (mean of matching rows), `accuracy_u2e` and
    `accuracy_e2u` (share of rows whose nearest row is a positive, of each process's first 256
    rows; 0 in a space that has collapsed to a point), `temperature` and, where only the diagonal
    counts, `mutual_information_bound`: log N - loss, in nats (van den Oord et al.,
    arXiv 1807.03748).
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        positives: Positives = "multi",
    ) -> None:
        super().__init__(temperature, learnable_temperature)
        self.positives = InfoNCEConfig(positives=positives).positives

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        dtype, weight = check_batch(u, e, labels, world)
        scale = self.scale(u, dtype)
        diagonal = labels is None or self.positives == "diagonal"
        seen = compare(
            u,
            e,
            scale,
            largest_scale=self.largest_scale(),
            levels=int(self.positives == "multi" and not diagonal),
            same_label_is_negative=diagonal or self.positives == "multi",
            labels=labels,
            world=world,
        )
        partner = scale * seen.partner
        value = partner_loss(partner, seen, weight)
        if seen.positives_u2e.shape[1]:
            excess = seen.positives_u2e[:, 0] + seen.positives_e2u[:, 0]
            value = value - weight * (scale * excess).sum() / 2
        logs = similarity_logs(value, seen, weight) | {"temperature": 1 / scale.detach()}
        if diagonal:
            total = len(u) if world is None else world.total
            logs["mutual_information_bound"] = math.log(total) - value.detach()
        return Loss(value, logs)


def partner_loss(partner: Tensor, seen: Comparison, weight: float) -> Tensor:
    """Weighted sum over rows of -log of the partner's share, mean of both directions.

    partner: (B,) logits. The negatives are summed apart from the partner, so that the loss and its
    gradient stay exact where the partner's share is nearly 1.
    """
    u2e, e2u = (
        softplus(negatives - partner, threshold=40)
        for negatives in (seen.negatives_u2e, seen.negatives_e2u)
    )
    return weight * (u2e + e2u).sum() / 2


def similarity_logs(
    value: Tensor, seen: Comparison, weight: float, levels: Sequence[str] = ()
) -> dict[str, Tensor]:
    """`loss`, `cosine`, and `accuracy_u2e`, `accuracy_e2u`: at the last level seen, or at each of
    the named `levels`."""
    rows = weight * len(seen.partner)
    logs = {"loss": value.detach(), "cosine": weight * seen.partner.detach().sum()}
    for name, nearest in (("u2e", seen.nearest_u2e), ("e2u", seen.nearest_e2u)):
        hits = nearest.to(value.dtype)
        shares = rows * hits.mean(0) if len(hits) else hits.sum(0)
        if levels and len(shares) > 1:
            logs |= {f"accuracy_{name}_{level}": shares[1 + i] for i, level in enumerate(levels)}
        else:
            logs[f"accuracy_{name}"] = shares[-1]
    return logs


def build_infonce(config: InfoNCEConfig) -> InfoNCE:
    return InfoNCE(config.temperature, config.learnable_temperature, config.positives)
