"""The video tower and the text tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib_viclip.config import ViCLIPConfig
from mirrorlib_viclip.layers import LayerNorm, Transformer


class PatchEmbedding(nn.Module):
    """A convolution over patches that do not overlap, computed as a matrix product.

    weight: (W, 3, 1, p, p).
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3, 1, patch_size, patch_size))
        nn.init.normal_(self.weight, std=(3 * patch_size**2) ** -0.5)

    def patches(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W). Returns (B, L, 3 p p), L = (H / p)(W / p) T patches, those of
        one place after one another in time."""
        size = self.weight.shape[-1]
        grid = frames.unflatten(4, (-1, size)).unflatten(3, (-1, size))
        return grid.permute(0, 3, 5, 1, 2, 4, 6).flatten(4).flatten(1, 3)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (B, M, 3 p p). Returns (B, M, W)."""
        return F.linear(patches, self.weight.flatten(1))


class VideoTower(nn.Module):
    """Joint attention over a class token and the patches of all frames."""

    def __init__(self, config: ViCLIPConfig) -> None:
        super().__init__()
        self.config = config
        width, std = config.vision_width, config.vision_width**-0.5
        self.conv1 = PatchEmbedding(width, config.patch_size)
        self.class_embedding = nn.Parameter(std * torch.randn(width))
        self.positional_embedding = nn.Parameter(std * torch.randn(1 + config.patches, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, config.num_frames, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(std * torch.randn(width, config.embed_dim))

    def forward(
        self, frames: Tensor, kept: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """frames: (B, T, 3, S, S), normalised, T that of the model or 1 (an image, which takes the
        mean temporal embedding). kept: (B, M) int64, which of the L patches are looked at, space
        first, then time; None: all. scale: (layers, 2, B), as `drop_path_scale` gives it. Returns
        the class token (B, W) after the last normalisation; `@ proj` embeds it. Raises ValueError
        where the frames do not fit.
        """
        self._check(frames)
        time: Tensor = self.temporal_positional_embedding
        if frames.shape[1] == 1:
            time = time.mean(1, keepdim=True)
        places = (self.positional_embedding[1:, None] + time).flatten(0, 1)
        patches = self.conv1.patches(frames.to(self.proj.dtype))
        if kept is not None:
            patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
            places = places[kept]
        tokens = self.conv1(patches) + places
        first = (self.class_embedding + self.positional_embedding[0]).to(tokens.dtype)
        x = torch.cat([first.expand(len(tokens), 1, -1), tokens], 1)
        x = self.transformer(self.ln_pre(x), scale=scale)
        return self.ln_post(x[:, 0])

    def _check(self, frames: Tensor) -> None:
        size, count = self.config.image_size, self.config.num_frames
        if frames.ndim != 5 or frames.shape[2:] != (3, size, size):
            raise ValueError(
                f"frames must be (B, T, 3, {size}, {size}), got {tuple(frames.shape)}; "
                "`mirrorlib_viclip.preprocessing.prepare` resizes and normalises"
            )
        if frames.shape[1] not in (1, count):
            raise ValueError(
                f"a clip must have {count} frames, or 1, got {frames.shape[1]}; "
                "`mirrorlib_viclip.preprocessing.middle_frames` chooses them"
            )

    def drop_path_scale(self, numbers: Tensor) -> Tensor:
        """numbers: (B, 2 layers), uniform in [0, 1). Returns (layers, 2, B): 0 for a branch that
        is left out, else 1 over the chance that it is not."""
        rate = torch.linspace(0, self.config.drop_path, self.config.vision_layers)
        rate = rate.repeat_interleave(2).to(numbers.device)
        scale = (numbers >= rate) / (1 - rate)
        return scale.T.unflatten(0, (-1, 2)).to(self.proj.dtype)


class TextTower(nn.Module):
    """CLIP's text tower: causal, read at the end-of-text token, the largest id of a row."""

    def __init__(self, config: ViCLIPConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, width))
        self.transformer = Transformer(width, config.text_layers, config.text_heads)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (K, L) int, L at most the context length. Returns (K, P)."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.transformer(x, causal=True)
        last = x[torch.arange(len(x), device=x.device), ids.argmax(1)]
        return self.ln_final(last) @ self.text_projection
