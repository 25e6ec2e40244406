"""A video model of transformers' as a video network: a clip in, one vector of features out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mirrorlib.errors import UserError
from mirrorlib.video_text import VideoBackbone
from mirrorlib_transformers.config import Pooling
from mirrorlib_transformers.loading import Facts, Loaded

CLASS_TOKEN_FIRST = {"timesformer", "vivit"}
"""Families that classify by their first token; the others' tokens are averaged."""
WITHOUT_USE = {
    "vivit": ("pooler",),
    "vjepa2": ("predictor",),
    "xclip": ("text_model", "text_projection", "prompts_visual_layernorm", "prompts_generator"),
}
"""Parts that have nothing to do with a video's features: left out."""


class TransformersNetwork(VideoBackbone):
    """F is the model's width; X-CLIP's: of its projection, where videos and texts are compared.

    loaded: `load(...)`, whose model is changed. num_frames: T, None: the model's. freeze: the
    model neither learns nor leaves evaluation mode. Parameters that have no part in the features
    do not learn. Raises UserError where the model does not take clips of that length, or lacks
    weights that it needs.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        num_frames: int | None = None,
        pooling: Pooling | None = None,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        model, facts = loaded.model, loaded.facts
        family = model.config.model_type
        if pooling and family == "xclip":
            raise UserError("observer transformers: X-CLIP pools by itself; leave pooling out")
        frames, self.image_size = num_frames or facts.num_frames, facts.image_size
        self.num_frames = frames
        self.pooling: Pooling = pooling or ("cls" if family in CLASS_TOKEN_FIRST else "mean")
        self.feature_dim, unused = self._probe(model.config, name, frames)
        if lacking := sorted(loaded.missing - unused):
            raise UserError(
                f"observer transformers: {name} lacks {len(lacking)} weights of {family}, such as "
                f"{lacking[0]}; give a checkpoint of the whole model"
            )
        for part in WITHOUT_USE.get(family, ()):
            setattr(model, part, None)
        for parameter, values in model.named_parameters():
            values.requires_grad_(not freeze and parameter not in unused)
        self.model, self.freeze = model, freeze
        self._keep_statistics(facts)
        self.train()

    def forward(self, video: Tensor) -> Tensor:
        pixels = ((video - self.mean) / self.std).transpose(1, 2)
        with torch.no_grad() if self.freeze else nullcontext():
            return self._features(self.model, pixels)

    def train(self, mode: bool = True) -> TransformersNetwork:
        super().train(mode and not self.freeze)
        self.training = mode
        return self

    def _keep_statistics(self, facts: Facts) -> None:
        """Mean and std of pixels in [-1, 1], which the model then sees as it was trained to."""
        scale = 127.5 * facts.scale
        mean = (torch.tensor(facts.mean) + facts.offset) / scale - 1
        std = torch.tensor(facts.std) / scale
        self.register_buffer("mean", mean.view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1, 1), persistent=False)

    def _features(self, model: Any, pixels: Tensor) -> Tensor:
        """pixels: (B, T, 3, S, S), normalised. Returns (B, F)."""
        family = model.config.model_type
        if family == "xclip":
            embedding: Tensor = model.get_video_features(pixel_values=pixels).pooler_output
            return embedding
        options = {"skip_predictor": True} if family == "vjepa2" else {}
        tokens: Tensor = model(**{model.main_input_name: pixels}, **options).last_hidden_state
        return tokens[:, 0] if self.pooling == "cls" else tokens.mean(1)

    def _probe(self, config: Any, name: str, frames: int) -> tuple[int, set[str]]:
        """F, and the names of parameters without a part in the features: of a model without
        numbers, so that nothing is computed."""
        from transformers import AutoModel

        size = self.image_size
        try:
            with torch.device("meta"):
                model = AutoModel.from_config(config)
                features = self._features(model, torch.empty(1, frames, 3, size, size))
            names, parameters = zip(*model.named_parameters(), strict=True)
            gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        except Exception as error:  # whatever a model raises where a shape does not fit
            raise UserError(
                f"observer transformers: {name}, a {config.model_type}, does not take clips of "
                f"{frames} frames ({' '.join(str(error).split())[:120]}); leave "
                "num_frames out, or give a video model"
            ) from error
        unused = {n for n, gradient in zip(names, gradients, strict=True) if gradient is None}
        return features.shape[1], unused
