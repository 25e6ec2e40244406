"""Low-rank updates of frozen linear maps (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRA(nn.Module):
    """x: (..., inputs) to `scale` up(down(x)): (..., outputs), zero before training.

    like: the weight that is updated, for its dtype and device.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(inputs**-0.5 * torch.randn(rank, inputs).to(like))
        self.up = nn.Parameter(torch.zeros(outputs, rank).to(like))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(x, self.down), self.up)

    def weight(self) -> Tensor:
        """(outputs, inputs): what the update adds to the map's weight."""
        return self.scale * self.up @ self.down
