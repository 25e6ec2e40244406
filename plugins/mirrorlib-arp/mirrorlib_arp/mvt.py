"""The multi-view transformer at the size of RVT-2 and ARP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib_arp.dropout import RowDropout
from mirrorlib_arp.renderer import VIEWS, WIDE_CHANNELS


@dataclass(frozen=True)
class MvtContext:
    """What the views are read against.

    state: (B, P) numbers of the robot's own state. words: (B, L, C) of the text tower. mask: (B, L)
    bool, True where there is a word. seed: (B,) int64, the rows' own; None: without dropout.
    """

    state: Tensor
    words: Tensor
    mask: Tensor
    seed: Tensor | None


@dataclass(frozen=True)
class MvtSizes:
    """views: pixels a side. patch: of them a token has. channels: of a patch. state, words: numbers
    of the robot's state and of a word. dropout: share."""

    views: int
    patch: int
    channels: int
    state: int
    words: int
    width: int
    depth: int
    heads: int
    dropout: float


class Mvt(nn.Module):
    """Patches of three views to tokens, attention within each view, then over all views and words.

    A patch convolution, beside each of its tokens the robot's state, learnt positions on the
    tokens of views alone; the words stand before them. depth // 2 layers within each view, the
    others jointly. No norm follows the last layer. Not specified in public sources: the layers of
    the state's network.
    """

    def __init__(self, sizes: MvtSizes) -> None:
        super().__init__()
        self.grid = sizes.views // sizes.patch
        self.dropout = sizes.dropout
        self.within = sizes.depth // 2
        both = 2 * sizes.channels
        self.patch = nn.Sequential(
            nn.Conv2d(WIDE_CHANNELS, sizes.channels, sizes.patch, stride=sizes.patch),
            nn.GroupNorm(4, sizes.channels),
            nn.LeakyReLU(0.02),
        )
        self.state = nn.Sequential(
            nn.Linear(sizes.state, sizes.channels),
            nn.LeakyReLU(0.02),
            nn.Linear(sizes.channels, sizes.channels),
        )
        self.position = nn.Parameter(0.02 * torch.randn(VIEWS * self.grid**2, both))
        self.words = nn.Linear(sizes.words, both)
        self.inwards = nn.Linear(both, sizes.width)
        self.layers = nn.ModuleList(
            GatedBlock(sizes.width, sizes.heads) for _ in range(sizes.depth)
        )
        self.outwards = nn.Linear(sizes.width, both)

    def forward(self, views: Tensor, context: MvtContext, name: str) -> tuple[Tensor, Tensor]:
        """views: (B, 3, 10, S, S) float32. name: gives this transformer dropout of its own.

        Returns tokens (B, 3, g, g, D) after the last layer and maps (B, 3, 2 C, g, g), g = S /
        patch.
        """
        batch = len(views)
        patches = self.patch(views.flatten(0, 1)).flatten(2).transpose(1, 2)
        visual = patches.unflatten(0, (batch, VIEWS)).flatten(1, 2)
        state = self.state(context.state)[:, None].expand(-1, visual.shape[1], -1)
        visual = torch.cat([visual, state.to(visual.dtype)], 2) + self.position
        tokens, words = self.inwards(visual), self.inwards(self.words(context.words))

        drops = self.training and context.seed is not None
        dropout = RowDropout(self.dropout if drops else 0.0, context.seed)
        for number, layer in enumerate(self.layers):
            if number == self.within:
                tokens = torch.cat([words, tokens], 1)
            joint = number >= self.within
            mask = F.pad(context.mask, (0, visual.shape[1]), value=True) if joint else None
            tokens = layer(tokens, 1 if joint else VIEWS, mask, dropout, f"{name} {number}")

        tokens = tokens[:, -visual.shape[1] :].unflatten(1, (VIEWS, self.grid, self.grid))
        return tokens, self.outwards(tokens).movedim(-1, 2)


class GatedBlock(nn.Module):
    """Pre-norm attention and a network of four times the width gated by GELU (GEGLU, Shazeer
    2020), both residual. Queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 8 * width)
        self.network = nn.Linear(4 * width, width)

    def forward(
        self,
        tokens: Tensor,
        groups: int,
        mask: Tensor | None,
        dropout: RowDropout,
        name: str,
    ) -> Tensor:
        """tokens: (B, N, D), of which N / groups consecutive ones attend to each other. mask:
        (B, N) bool, True where a token may be read. Returns (B, N, D)."""
        grouped = self.norm_attention(tokens).unflatten(1, (groups, -1)).flatten(0, 1)
        heads = self.qkv(grouped).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], seen)
        merged = self.merge(mixed.transpose(1, 2).flatten(2)).view(tokens.shape)
        tokens = tokens + dropout(merged, f"{name} attention")
        values, gates = self.gated(self.norm_network(tokens)).chunk(2, -1)
        return tokens + dropout(self.network(values * F.gelu(gates)), f"{name} network")
