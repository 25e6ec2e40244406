"""A pre-norm transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bias_from_mask(mask: Tensor) -> Tensor:
    """mask: bool, True where attention is allowed. Returns 0 there and -inf elsewhere."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)


class Block(nn.Module):
    """Self-attention and a ReLU network of three times the width, both residual. (GELU costs a
    tenth more on a CPU.)"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width)
        )

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """tokens: (B, N, D). bias: broadcasts to (B, heads, N, N), added to the attention logits.
        Returns (B, N, D)."""
        heads = self.qkv(self.norm_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        tokens = tokens + self.merge(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(tokens)
