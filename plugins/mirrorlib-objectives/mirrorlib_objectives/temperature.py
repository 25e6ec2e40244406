"""What objectives over cosine similarities share: a temperature, fixed or learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mirrorlib.interfaces import Objective
from mirrorlib_objectives.config import (
    LARGEST_LEARNABLE_TEMPERATURE,
    SMALLEST_LEARNABLE_TEMPERATURE,
    TemperatureOptions,
)


class TemperedObjective(Objective):
    """Cosines are divided by `temperature`. A learnable one is stored as the logarithm of its
    inverse, `log_scale` (), so that steps are relative."""

    log_scale: nn.Parameter | None

    def __init__(self, temperature: float, learnable_temperature: bool) -> None:
        super().__init__()
        options = TemperatureOptions(
            temperature=temperature, learnable_temperature=learnable_temperature
        )
        self.temperature = options.temperature
        start = torch.tensor(-math.log(options.temperature))
        self.log_scale = nn.Parameter(start) if learnable_temperature else None

    def after_step(self) -> None:
        """Keep a learnable temperature between 0.01 and 1."""
        if self.log_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(
                    -math.log(LARGEST_LEARNABLE_TEMPERATURE),
                    -math.log(SMALLEST_LEARNABLE_TEMPERATURE),
                )

    def scale(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse temperature, (); on the device of `like`, or where it is learnt."""
        if self.log_scale is None:
            return like.new_full((), 1 / self.temperature, dtype=dtype)
        return self.log_scale.to(dtype).exp()

    def largest_scale(self) -> float:
        """What `scale` is known not to exceed, without waiting for a GPU."""
        if self.log_scale is None:
            return 1 / self.temperature
        if self.log_scale.device.type != "cpu":
            return 1 / SMALLEST_LEARNABLE_TEMPERATURE
        return math.exp(self.log_scale.item())
