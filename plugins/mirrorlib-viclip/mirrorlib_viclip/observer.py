"""ViCLIP as mirrorlib's observer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mirrorlib.interfaces import Clips, Encoding, Observer
from mirrorlib.video_text import global_video_text_loss
from mirrorlib_viclip.config import Representation, Tuning
from mirrorlib_viclip.model import ViCLIP
from mirrorlib_viclip.preprocessing import prepare
from mirrorlib_viclip.tuning import add_lora

REMEMBERED = 65536
"""Texts whose embeddings are kept where the text tower is frozen."""


class ViCLIPObserver(Observer):
    """A ViCLIP that is trained to match videos and texts, all of it or parts.

    The task loss is ViCLIP's, over the rows of all processes: rows of one instruction are each
    other's positives, whatever wording they drew. tuning: `frozen_text`; `full`; `lora`, updates
    of the video tower's linear maps, all else but the temperature frozen. A frozen text tower
    encodes each text once. representation: `embedding` (B, P), before it is scaled to length 1,
    or `features` (B, W), the class token. masking_prob: share of patches left out in training,
    drawn, as `drop_path` is, from each row's own seed.
    """

    def __init__(
        self,
        model: ViCLIP,
        representation: Representation = "embedding",
        tuning: Tuning = "frozen_text",
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        masking_prob: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.representation = representation
        self.representation_dim = (
            model.config.embed_dim if representation == "embedding" else model.config.vision_width
        )
        self.masking_prob = masking_prob
        self.frozen_text = tuning != "full"
        if self.frozen_text:
            model.text_encoder.requires_grad_(False)
        if tuning == "lora":
            add_lora(model.vision_encoder, lora_rank, lora_alpha)
        self._remembered: dict[str, Tensor] = {}
        self._stamp: object = None

    def forward(self, clips: Clips) -> Encoding:
        """Representation (B, representation_dim) and the task loss of all processes' rows."""
        kept = scale = None
        training = self.model.vision_encoder.training
        if training and self.masking_prob:
            kept = self.model.random_patches(clips.seed, masking_prob=self.masking_prob)
        if training and self.model.config.drop_path:
            scale = self.model.random_branches(clips.seed)
        features = self.model.video_features(self._prepared(clips.frames), kept=kept, scale=scale)
        embedding = self.model.embed(features)
        text, temperature = self.encode_text(clips.text), self.model.temperature()
        loss, accuracy = global_video_text_loss(embedding, text, clips.instruction, 1 / temperature)
        chosen = embedding if self.representation == "embedding" else features
        return Encoding(
            chosen, loss, {"accuracy": accuracy, "temperature": temperature.detach().clone()}
        )

    def encode_video(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) uint8. Returns (B, P), of the whole frames at the middles of
        the clip's segments; never masked."""
        return self.model.encode_video(self._prepared(frames))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts. Returns (K, P). Each distinct text is encoded once, and if the text tower is
        frozen, once and for all."""
        if self.frozen_text:
            return self._frozen_embeddings(texts)
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return self.model.encode_text(list(distinct))[[distinct[text] for text in texts]]

    def _prepared(self, frames: Tensor) -> Tensor:
        config = self.model.config
        return prepare(frames, config.image_size, config.num_frames)

    def _frozen_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Each text by itself and without autocast, so that what is remembered does not depend on
        who asked first."""
        parameters = list(self.model.text_encoder.parameters())
        versions = sum(parameter._version for parameter in parameters)
        stamp = (id(parameters[0]), versions, parameters[0].device, parameters[0].dtype)
        if stamp != self._stamp or len(self._remembered) > REMEMBERED:
            self._remembered, self._stamp = {}, stamp
        unknown = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        if unknown:
            device = parameters[0].device.type
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(device, enabled=False),
            ):
                self._remembered |= {text: self.model.encode_text([text])[0] for text in unknown}
        return torch.stack([self._remembered[text] for text in texts])
