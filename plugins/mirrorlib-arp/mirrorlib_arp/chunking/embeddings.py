"""From the values of known tokens to vectors.

Values are int64 (B, n) where discrete, (B, n, dim) where continuous: B rows, n tokens of one type.
Points on a map are (row, column) in [0, 1], the centre of pixel i at (i + 0.5) / size.
"""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking.layers import Contexts, context_of


class Embedding(nn.Module, abc.ABC):
    """dim: numbers of one continuous value; None: values are discrete."""

    dim: int | None

    @abc.abstractmethod
    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        """values: (B, n) or (B, n, dim). Returns (B, n, D)."""


class Discrete(Embedding):
    """A learnt vector for each of `values` values. Returns (B, n, D) of int64 (B, n)."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.dim = None
        self.table = nn.Embedding(values, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        return self.table(values)


class Linear(Embedding):
    """A learnt affine map of a value of `dim` numbers."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, width)

    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        return self.linear(values.to(self.linear.weight.dtype))


class Sinusoidal(Embedding):
    """Sines, then cosines, of each coordinate at frequencies scale * 10000^(-k / K).

    Each of the `dim` coordinates has a block of width / dim = 2 K columns to itself (Vaswani et
    al. 2017). Nothing is learnt.
    """

    def __init__(self, width: int, dim: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        if width % (2 * dim):
            raise UserError(
                f"chunking: a sinusoidal embedding of {dim} coordinates needs a width that "
                f"{2 * dim} divides, not {width}"
            )
        self.dim = dim
        count = width // (2 * dim)
        exponent = torch.arange(count) / count
        frequencies = scale * torch.exp(-math.log(10_000) * exponent)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        angles = values[..., None] * self.frequencies.to(values.dtype)
        return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class Sampled(Embedding):
    """The bilinear sample of a feature map at a point, and at the border's value beyond it.

    context: name of a map (B, channels, h, w). Values: (B, n, 2) row and column in [0, 1]. A
    linear map follows where channels and width differ.
    """

    def __init__(self, context: str, channels: int, width: int) -> None:
        super().__init__()
        self.dim = 2
        self.context = context
        self.resize = resize(channels, width)

    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        features = context_of(contexts, self.context)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise UserError(f"chunking: context {self.context!r} must be a map (B, C, h, w)")
        grid = (2 * values.flip(-1) - 1)[:, :, None].to(features.dtype)
        sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
        return self.resize(sampled[..., 0].transpose(1, 2))


class Given(Embedding):
    """Embeddings that the caller made: values (B, n, channels), for given tokens alone.

    A linear map follows where channels and width differ.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.dim = channels
        self.resize = resize(channels, width)

    def forward(self, values: Tensor, contexts: Contexts) -> Tensor:
        return self.resize(values)


def resize(inputs: int, width: int) -> nn.Module:
    """A linear map, or nothing where the widths are equal."""
    return nn.Identity() if inputs == width else nn.Linear(inputs, width)
