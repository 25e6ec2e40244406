"""From slots to distributions over the values of predicted tokens."""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mirrorlib_arp.chunking.layers import Contexts


class Head(nn.Module, abc.ABC):
    """Predicts values from slots. dim: numbers of one continuous value; None: discrete."""

    dim: int | None

    @abc.abstractmethod
    def forward(self, slots: Tensor, contexts: Contexts) -> Tensor:
        """slots: (B, n, D). Returns the distribution's parameters (B, n, ...), float32 at least."""

    @abc.abstractmethod
    def losses(self, parameters: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of the targets in nats, (B, n)."""

    @abc.abstractmethod
    def choose(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        """Values drawn by the generator, or the likeliest where it is None: (B, n[, dim])."""


class Classes(Head):
    """One of `count` classes, by cross-entropy.

    Parameters: logits (B, n, K). Targets: (B, n) int64, or probabilities (B, n, K) for soft labels.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.dim = None
        self.linear = nn.Linear(width, count)

    def forward(self, slots: Tensor, contexts: Contexts) -> Tensor:
        return full_precision(self.linear(slots))

    def losses(self, parameters: Tensor, targets: Tensor) -> Tensor:
        flat = targets.flatten(0, 1)
        if targets.is_floating_point():
            flat = flat.to(parameters.dtype)
        losses = F.cross_entropy(parameters.flatten(0, 1), flat, reduction="none")
        return losses.unflatten(0, targets.shape[:2])

    def choose(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        return choose_index(parameters, generator)


class Mixture(Head):
    """A mixture of Gaussians with diagonal covariance, over values of `dim` numbers.

    Parameters (B, n, M (1 + 2 dim)): of each component its logit, mean and raw spread; M = 1 has
    no logit. The standard deviation is exp(raw / 2), kept above `min_std` by a softplus (as in
    PETS, Chua et al. 2018), so that a target that is met exactly gives finite losses and
    gradients. The likeliest value is taken to be the mean of the component of largest weight.
    """

    def __init__(self, width: int, dim: int, components: int, min_std: float = 1e-3) -> None:
        super().__init__()
        self.dim: int = dim
        self.components = components
        self.floor = 2 * math.log(min_std)
        # One component needs no logit.
        self.linear = nn.Linear(width, components * (2 * dim + 1) if components > 1 else 2 * dim)

    def forward(self, slots: Tensor, contexts: Contexts) -> Tensor:
        return full_precision(self.linear(slots))

    def losses(self, parameters: Tensor, targets: Tensor) -> Tensor:
        logits, mean, std = self.split(parameters)
        mixture = MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Independent(Normal(mean, std, validate_args=False), 1, validate_args=False),
            validate_args=False,
        )
        return -mixture.log_prob(targets.to(parameters.dtype))

    def choose(self, parameters: Tensor, generator: torch.Generator | None) -> Tensor:
        logits, means, stds = self.split(parameters)
        which = choose_index(logits, generator)[..., None, None]
        mean, std = (each.take_along_dim(which, 2)[:, :, 0] for each in (means, stds))
        return mean if generator is None else torch.normal(mean, std, generator=generator)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, n, M), means and standard deviations (B, n, M, dim)."""
        if self.components == 1:
            parameters = F.pad(parameters, (1, 0))
        each = parameters.unflatten(-1, (self.components, -1))
        logits, mean, raw = each.split([1, self.dim, self.dim], -1)
        spread = self.floor + F.softplus(raw - self.floor)
        return logits[..., 0], mean, (spread / 2).exp()


class Gaussian(Mixture):
    """One Gaussian with diagonal covariance. Its likeliest value is the mean."""

    def __init__(self, width: int, dim: int, min_std: float = 1e-3) -> None:
        super().__init__(width, dim, 1, min_std)


def choose_index(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """logits: (..., K). Returns (...) int64: drawn, or the largest where generator is None."""
    if generator is None:
        return logits.argmax(-1)
    probabilities = logits.softmax(-1).flatten(0, -2)
    return torch.multinomial(probabilities, 1, generator=generator).view(logits.shape[:-1])


def full_precision(values: Tensor) -> Tensor:
    """The same in float32, or float64 if it was so."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
