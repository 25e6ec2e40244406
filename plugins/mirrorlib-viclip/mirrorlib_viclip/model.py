"""ViCLIP (Wang et al. 2023, arXiv 2307.06942): videos and texts in one space."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib import tokenizer
from mirrorlib.errors import UserError
from mirrorlib.pretrained import read_weights
from mirrorlib.randomness import uniform
from mirrorlib.video_text import video_text_loss
from mirrorlib_viclip.checkpoint import fitted, inferred
from mirrorlib_viclip.config import ViCLIPConfig
from mirrorlib_viclip.towers import TextTower, VideoTower
from mirrorlib_viclip.zero_shot import TEMPLATES, mean_similarities


class ViCLIP(nn.Module):
    """A video tower, a text tower and a temperature, from chance.

    Parameter names and shapes are those of the published checkpoints (InternVideo 3965eef,
    `Data/InternVid/viclip`), and there are no buffers. In training mode the video tower leaves
    residual branches out (`drop_path`).
    """

    def __init__(self, config: ViCLIPConfig | None = None) -> None:
        super().__init__()
        self.config = config or ViCLIPConfig()
        self.vision_encoder = VideoTower(self.config)
        self.text_encoder = TextTower(self.config)
        self.temp = nn.Parameter(torch.tensor(self.config.temp_min))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        num_frames: int | None = None,
        image_size: int | None = None,
        *,
        config: ViCLIPConfig | None = None,
    ) -> Self:
        """A model in evaluation mode from a `.pth` (flat, or under "model" or "module") or a
        `.safetensors` file, read without running any code of it.

        config: the sizes; None: taken from the shapes, with heads 64 wide, as published models
        have. num_frames, image_size: other than those; where the file has other embeddings of
        time or place than the sizes ask for, they are resized (`checkpoint.fitted`). Raises
        UserError where the file is no checkpoint, or its keys or shapes are not ViCLIP's.
        """
        wanted = {"num_frames": num_frames, "image_size": image_size}
        sizes = {name: size for name, size in wanted.items() if size is not None}
        if config is not None:
            sizes = dict(config) | sizes
        state = read_weights(Path(path))
        return cls.from_state_dict(state, inferred(state, str(path), **sizes), str(path))

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], config: ViCLIPConfig, source: str = "state dict"
    ) -> Self:
        """A model in evaluation mode that holds these tensors, in float32. Raises UserError, which
        names `source`, as `from_checkpoint` does."""
        with torch.device("meta"):
            model = cls(config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict(fitted(state, shapes, source), assign=True)
        return model.eval()

    def encode_video(
        self, frames: Tensor, *, kept: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Embeddings (B, P), not of unit length.

        frames: (B, T, 3, S, S) float, normalised (`preprocessing.prepare`), T = `num_frames`, or 1
        for images. kept: (B, M) int64, the patches to look at, as `random_patches` gives them;
        None: all. scale: (layers, 2, B), factors of the residual branches, as `random_branches`
        gives them; None: drawn from torch's generator in training, else 1. Raises ValueError where
        the frames do not fit.
        """
        return self.embed(self.video_features(frames, kept=kept, scale=scale))

    def video_features(
        self, frames: Tensor, *, kept: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """The class token (B, W) after the last normalisation. Arguments as in `encode_video`."""
        if scale is None and self.vision_encoder.training and self.config.drop_path:
            count = 2 * self.config.vision_layers
            numbers = torch.rand(len(frames), count, device=frames.device)
            scale = self.vision_encoder.drop_path_scale(numbers)
        features: Tensor = self.vision_encoder(frames, kept, scale)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """features: (B, W). Returns (B, P)."""
        return features @ self.vision_encoder.proj

    def random_patches(
        self, seed: Tensor, frames: int | None = None, masking_prob: float | None = None
    ) -> Tensor:
        """Which patches of a masked clip are left, drawn from each row's own seed.

        seed: (B,) int64. frames: T; None: `num_frames`. masking_prob: None: the model's. Returns
        (B, L - int(masking_prob L)) int64, ascending, L = T patches of a frame.
        """
        count = self.config.patches * (frames or self.config.num_frames)
        share = self.config.masking_prob if masking_prob is None else masking_prob
        order = uniform(seed, count, "viclip masking").argsort(1)
        return order[:, int(share * count) :].sort(1).values

    def random_branches(self, seed: Tensor) -> Tensor:
        """Which residual branches of the video tower a row goes through in training (`drop_path`).

        seed: (B,) int64, the rows' own. Returns (layers, 2, B): 0, or 1 over the chance to stay.
        """
        numbers = uniform(seed, 2 * self.config.vision_layers, "viclip drop path")
        return self.vision_encoder.drop_path_scale(numbers)

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """K texts, or ids (K, L), L at most the context length. Returns (K, P), not of unit
        length. Raises UserError where there is no tokenizer for the model's vocabulary."""
        if isinstance(texts, Tensor):
            ids = texts
        else:
            ids = self.tokenize(texts)
            if len(ids):  # no token sees what follows it, and the last of each row is read
                ids = ids[:, : int(ids.argmax(1).max()) + 1]
        embedding: Tensor = self.text_encoder(ids.to(self.temp.device))
        return embedding

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """K texts. Returns (K, context_length) int64, 0 after the end; longer texts are cut."""
        if self.config.vocab_size < tokenizer.VOCABULARY:
            raise UserError(
                f"vocab_size {self.config.vocab_size}: CLIP's tokenizer has "
                f"{tokenizer.VOCABULARY} tokens; give ids instead of texts"
            )
        return tokenizer.tokenize(texts, self.config.context_length)

    def temperature(self) -> Tensor:
        """The learnt temperature (), which is first moved, in place, to at least `temp_min`."""
        with torch.no_grad():
            self.temp.clamp_(min=self.config.temp_min)
        return self.temp

    def similarities(self, video: Tensor, text: Tensor) -> Tensor:
        """Embeddings (B, P) and (K, P). Returns (B, K): cosines over the temperature."""
        cosines = F.normalize(video, dim=1) @ F.normalize(text, dim=1).T
        return cosines / self.temperature()

    def loss(self, video: Tensor, text: Tensor, idx: Tensor | None = None) -> Tensor:
        """ViCLIP's contrastive loss () of embeddings (B, P), row i of one the partner of row i of
        the other. idx: (B,) int64, rows of one value are each other's positives; None: only
        partners are. Of one process; `mirrorlib.video_text` has that of many."""
        if idx is None:
            idx = torch.arange(len(video), device=video.device)
        with torch.autocast(video.device.type, enabled=False):
            return video_text_loss(video, text, idx, 1 / self.temperature())[0]

    @torch.no_grad()
    def classify(
        self, frames: Tensor, labels: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> Tensor:
        """Zero-shot: the mean cosine of each video with a label's sentences, (B, K) in [-1, 1].

        frames: as in `encode_video`. labels: K names, put where a template has `{}`. The largest
        of a row names its class; the softmax of 100 times a row is what ViCLIP reports as its
        probabilities.
        """
        return mean_similarities(self.encode_video(frames), self.encode_text, labels, templates)

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        """Whether both towers compute their layers again in the backward pass."""
        self.vision_encoder.transformer.gradient_checkpointing = enabled
        self.text_encoder.transformer.gradient_checkpointing = enabled
