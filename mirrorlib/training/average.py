"""An exponential moving average of what learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Follows parameters; buffers, such as those of batch normalisation, are not averaged.

    decay: what a step keeps of the average, in [0, 1); at step n at most (1 + n) / (10 + n), so
    that the first values are soon forgotten.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        """Takes the parameters in, after optimiser step `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(keep)(self.values, self.parameters, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold the average, and `values` what they held."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Parameters and average change places."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            held = parameter.clone()
            parameter.copy_(value)
            value.copy_(held)

    @torch.no_grad()
    def load_state(self, state: Sequence[Tensor]) -> None:
        """The parameters hold the average. state: what they held themselves, as `values` within
        `applied`."""
        for value, parameter, held in zip(self.values, self.parameters, state, strict=True):
            value.copy_(parameter)
            parameter.copy_(held)
