"""CKA as an objective: similar rows on one side are similar on the other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mirrorlib.alignment import cka
from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.batch import gather_batch
from mirrorlib_objectives.config import CKAConfig


class CKA(Objective):
    """One minus the CKA of all rows, `mirrorlib.alignment.cka`, where its formulas stand.

    As a plain loss: `CKA()(u, e).value`, u, e: (B, Z) with at least 32 rows. kernel: `linear`
    (Kornblith et al., arXiv 1905.00414) or `rbf`, Gaussian with `bandwidth` in median distances
    between rows. debiased (Song et al. 2012, equation 5): between 0 and 2, about 1 for rows that
    have nothing to do with each other; biased: between 0 and 1, and far below 1 for such rows
    wherever N is not far above Z.

    Invariant to rotation, shift and scale of either side, and so blind to them: at value 0
    retrieval from one side to the other may be at chance. Uses no labels. Every process computes
    it of all processes' rows. A side that is collapsed has value 1 and no gradient.

    forward raises ValueError for shapes that do not match, numbers that are not finite and
    fewer than 32 rows of all processes, whose estimate is noise (standard deviation 0.74 at 4 rows
    of 256 dimensions). Its logs are `loss` and `cka`, which is 0 for a side that is collapsed.
    """

    def __init__(
        self,
        kernel: Literal["linear", "rbf"] = "linear",
        debiased: bool = True,
        bandwidth: float = 1.0,
    ) -> None:
        super().__init__()
        self.options = CKAConfig(kernel=kernel, debiased=debiased, bandwidth=bandwidth)

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        with torch.autocast(u.device.type, enabled=False):
            minimum = ("CKA", CKAConfig.minimum_rows)
            batch = gather_batch(u, e, labels, world, minimum)
            alike = cka(
                batch.u,
                batch.e,
                kernel=self.options.kernel,
                debiased=self.options.debiased,
                bandwidth=self.options.bandwidth,
            )
            value = 1 - alike
        return Loss(value, {"loss": value.detach(), "cka": alike.detach()})


def build_cka(config: CKAConfig) -> CKA:
    return CKA(config.kernel, config.debiased, config.bandwidth)
