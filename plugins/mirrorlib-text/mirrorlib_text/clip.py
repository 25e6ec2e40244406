"""CLIP's text transformer (Radford et al. 2021, arXiv 2103.00020), with OpenAI's names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib.frozen_text import Frozen
from mirrorlib.interfaces import Text, TextEncoding
from mirrorlib.tokenizer import VOCABULARY, tokenize
from mirrorlib_text.clip_weights import read_clip
from mirrorlib_text.config import ClipConfig

Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True)
class ClipSizes:
    """width: D. context_length: the tokens of a text at most. heads: those of a layer."""

    width: int = 512
    layers: int = 12
    heads: int = 8
    context_length: int = 77
    vocabulary: int = VOCABULARY


class ClipText(Text):
    """tokens: after the last normalisation, start and end included, before CLIP's projection.
    pooled: the end token's, from which CLIP's linear projection would follow.

    Attention is causal: a token never depends on what stands after it, padding included, so texts
    are computed no longer than the longest.
    """

    def __init__(self, sizes: ClipSizes, activation: Activation = "quick_gelu") -> None:
        super().__init__()
        width, self.width = sizes.width, sizes.width
        self.context_length = sizes.context_length
        self.token_embedding = nn.Embedding(sizes.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context_length, width))
        self.transformer = _Transformer(sizes, activation)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts. tokens: (K, L, D), zero where masked, L the tokens of the longest text, at most
        the context length, to which longer texts are cut, their end kept."""
        ids = tokenize(texts, self.context_length)
        lengths = ids.argmax(1) + 1
        ids = ids[:, : int(lengths.max())]
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        device = self.positional_embedding.device
        tokens, mask = self.encode(ids.to(device)), mask.to(device)
        pooled = tokens[torch.arange(len(ids), device=device), lengths.to(device) - 1]
        return TextEncoding(tokens * mask[..., None], mask, pooled)

    def encode(self, ids: Tensor) -> Tensor:
        """ids: (K, L) int64, L at most the context length. Returns (K, L, D)."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        tokens: Tensor = self.ln_final(self.transformer(x))
        return tokens


class _Transformer(nn.Module):
    def __init__(self, sizes: ClipSizes, activation: Activation) -> None:
        super().__init__()
        blocks = [_Block(sizes, activation) for _ in range(sizes.layers)]
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for block in self.resblocks:
            x = block(x, hidden)
        return x


class _Block(nn.Module):
    """Normalisation first. CLIP's initialisation, scaled down by the number of layers."""

    def __init__(self, sizes: ClipSizes, activation: Activation) -> None:
        super().__init__()
        width = sizes.width
        self.attn = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        gelu = nn.GELU() if activation == "gelu" else _QuickGELU()
        steps = OrderedDict[str, nn.Module](c_fc=widen, gelu=gelu, c_proj=narrow)
        self.mlp = nn.Sequential(steps)
        self.ln_2 = nn.LayerNorm(width)
        out_std = width**-0.5 * (2 * sizes.layers) ** -0.5
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=out_std)
        nn.init.normal_(widen.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(narrow.weight, std=out_std)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x: (K, L, D). hidden: (L, L) bool, True where a row must not look."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=hidden, is_causal=True)[0]
        mapped: Tensor = self.mlp(self.ln_2(x))
        return x + mapped


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def build(config: ClipConfig) -> Text:
    """Raises UserError where the weights cannot be had or are not CLIP's."""
    if config.weights is None:
        width = config.width or 512
        heads = config.heads or max(1, width // 64)
        sizes = ClipSizes(width, config.layers or 12, heads, config.context_length or 77)
        return ClipText(sizes, config.activation or "quick_gelu")
    found = read_clip(config.weights)
    if config.heads and found.width % config.heads:
        raise UserError(
            f"text clip: heads {config.heads} does not divide the width {found.width} of "
            f"{config.weights}; leave it out, or give what the model was trained with"
        )
    sizes = ClipSizes(
        found.width, found.layers, config.heads or found.heads, found.context_length,
        found.vocabulary,
    )  # fmt: skip
    tower = ClipText(sizes, config.activation or found.activation)
    found.load_into(tower)
    return tower if config.trainable else Frozen(tower)
