"""The objective of the baseline: encoders that learn side by side, never aligned."""

from __future__ import annotations

from torch import Tensor

from mirrorlib.interfaces import Loss, Objective, World
from mirrorlib_objectives.config import NoneConfig


class NoAlignment(Objective):
    """A zero that is attached to nothing: `NoAlignment()(u, e).value`."""

    uses_projectors = False

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        return Loss(u.new_zeros(()))


def build_none(config: NoneConfig) -> NoAlignment:
    return NoAlignment()
