"""Layers of the chunking transformer: cross-attention on a context, self-attention, a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib.errors import UserError, suggestion
from mirrorlib_arp.dropout import RowDropout


class Masked(NamedTuple):
    """Context tokens of differing number. values: (B, L, C). mask: (B, L) bool, True where there
    is one; each row has at least one."""

    values: Tensor
    mask: Tensor


Contexts = Mapping[str, "Tensor | Masked"]
"""By name: tokens (B, L, C), `Masked` tokens, or a feature map (B, C, h, w)."""


def context_of(contexts: Contexts, name: str) -> Tensor | Masked:
    """The named context. Raises UserError where it was not handed over."""
    if name not in contexts:
        hint = suggestion(name, contexts)
        raise UserError(f"chunking: context {name!r} is missing{hint}; pass it in `contexts`")
    return contexts[name]


def tokens_of(contexts: Contexts, name: str) -> tuple[Tensor, Tensor | None]:
    """The named context as tokens (B, L, C), and its mask (B, 1, 1, L) if it has one."""
    context = context_of(contexts, name)
    if isinstance(context, Masked):
        return context.values, context.mask[:, None, None]
    return (context.flatten(2).transpose(1, 2) if context.ndim == 4 else context), None


@dataclass(frozen=True)
class Layer:
    """One layer. context: what it reads by cross-attention; None: nothing.

    mode: what becomes of that reading. residual: it is added to the tokens. adaln: six vectors
    made from it shift, scale and gate self-attention and network (Peebles and Xie 2023); they
    begin as zero, so that the layer begins as the identity.
    """

    context: str | None = None
    mode: Literal["residual", "adaln"] = "residual"


class CrossAttention(nn.Module):
    """Tokens read a context of another width."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """tokens: (B, N, D). context: (B, L, C). mask: (B, 1, 1, L) bool. Returns (B, N, D)."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        heads = self.key_value(context.to(tokens.dtype)).unflatten(-1, (2, self.heads, -1))
        key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        return self.merge(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm cross-attention (if the layer reads a context), self-attention and network.

    The network is `ratio` times as wide, with a tanh-approximated GELU.
    """

    def __init__(
        self, width: int, heads: int, context_width: int | None, adaln: bool, ratio: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.cross: CrossAttention | None = None
        self.modulation: nn.Linear | None = None
        if context_width is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.cross = CrossAttention(width, heads, context_width)
            if adaln:
                self.modulation = nn.Linear(width, 6 * width)
                nn.init.zeros_(self.modulation.weight)
                nn.init.zeros_(self.modulation.bias)
        affine = self.modulation is None
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=affine)
        self.norm_network = nn.LayerNorm(width, elementwise_affine=affine)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, ratio * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(ratio * width, width),
        )

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        context: tuple[Tensor, Tensor | None] | None,
        dropout: RowDropout,
        stream: str,
    ) -> Tensor:
        """tokens: (B, N, D). mask: (N, N) bool, True where a row may read a column. context:
        tokens (B, L, C) and their mask. Returns (B, N, D)."""
        if self.cross is not None:
            assert context is not None
            reading = dropout(self.cross(self.norm_cross(tokens), *context), f"{stream} cross")
            if self.modulation is not None:
                return self._modulated(tokens, mask, reading, dropout, stream)
            tokens = tokens + reading
        attended = self._attend(self.norm_attention(tokens), mask)
        tokens = tokens + dropout(attended, f"{stream} self")
        return tokens + dropout(self.network(self.norm_network(tokens)), f"{stream} network")

    def _modulated(
        self, tokens: Tensor, mask: Tensor, reading: Tensor, dropout: RowDropout, stream: str
    ) -> Tensor:
        assert self.modulation is not None
        vectors = self.modulation(F.silu(reading)).chunk(6, -1)
        shift_a, scale_a, gate_a, shift_n, scale_n, gate_n = vectors
        attended = self._attend(self.norm_attention(tokens) * (1 + scale_a) + shift_a, mask)
        tokens = tokens + gate_a * dropout(attended, f"{stream} self")
        computed = self.network(self.norm_network(tokens) * (1 + scale_n) + shift_n)
        return tokens + gate_n * dropout(computed, f"{stream} network")

    def _attend(self, tokens: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        return self.merge(mixed.transpose(1, 2).flatten(2))
