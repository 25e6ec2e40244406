"""The transformer of both towers, with the parameter names of the published checkpoints."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mirrorlib_viclip.lora import LoRA

GELU_SLOPE = 1.702


class LayerNorm(nn.LayerNorm):
    """Computed in float32 or wider, returned in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Linear(nn.Linear):
    """A linear map that may have a low-rank update."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.lora: LoRA | None
        self.register_module("lora", None)

    def forward(self, x: Tensor, product: float = 1.0, bias: float = 1.0) -> Tensor:
        """x: (B, L, inputs). product, bias: factors of the two terms, which cost nothing."""
        y = torch.addmm(self.bias, x.flatten(0, 1), self.weight.T, beta=bias, alpha=product)
        y = y.unflatten(0, x.shape[:2])
        return y if self.lora is None else y + product * self.lora(x)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values are one map, as in CLIP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)
        self.in_proj_lora: LoRA | None
        self.register_module("in_proj_lora", None)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """x: (B, L, W). causal: no token sees a later one."""
        mixed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        if self.in_proj_lora is not None:
            mixed = mixed + self.in_proj_lora(x)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in mixed.chunk(3, 2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with x sigmoid(1.702 x) between them, which is SiLU(1.702 x) / 1.702: the
    factors are taken into the maps, and the backward pass needs one tensor less."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.c_fc(x, product=GELU_SLOPE, bias=GELU_SLOPE)
        inner = F.silu(inner, inplace=not torch.is_grad_enabled())
        return self.c_proj(inner, product=1 / GELU_SLOPE)


class ResidualBlock(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False, scale: Tensor | None = None) -> Tensor:
        """x: (B, L, W). scale: (2, B), factors of the two branches."""
        attended = self.attn(self.ln_1(x), causal)
        x = x + (attended if scale is None else attended * scale[0, :, None, None])
        changed = self.mlp(self.ln_2(x))
        return x + (changed if scale is None else changed * scale[1, :, None, None])


class Transformer(nn.Module):
    """gradient_checkpointing: keep only each layer's input for the backward pass."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads) for _ in range(layers))
        self.gradient_checkpointing = False
        self._initialise(width, layers)

    @torch.no_grad()
    def _initialise(self, width: int, layers: int) -> None:
        """As CLIP starts (Radford et al. 2021, after GPT-2): maps into the residual stream are
        the smaller the more of them there are."""
        inwards = width**-0.5
        for block in self.resblocks:
            assert isinstance(block, ResidualBlock)
            block.attn.in_proj_weight.normal_(std=inwards)
            block.attn.out_proj.weight.normal_(std=inwards * (2 * layers) ** -0.5)
            block.mlp.c_fc.weight.normal_(std=(2 * width) ** -0.5)
            block.mlp.c_proj.weight.normal_(std=inwards * (2 * layers) ** -0.5)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                linear.bias.zero_()
            block.attn.in_proj_bias.zero_()

    def forward(self, x: Tensor, causal: bool = False, scale: Tensor | None = None) -> Tensor:
        """x: (B, L, W). scale: (layers, 2, B), factors of every residual branch."""
        for index, block in enumerate(self.resblocks):
            factors = None if scale is None else scale[index]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, causal, factors, use_reentrant=False))
            else:
                x = block(x, causal, factors)
        return x
