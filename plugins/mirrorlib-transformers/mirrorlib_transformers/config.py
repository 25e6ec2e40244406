"""Options of the observer, as recipes write them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mirrorlib.video_text_config import VideoTextConfig

Pooling = Literal["mean", "cls"]


class TransformersConfig(VideoTextConfig):
    model: str = Field(
        min_length=1,
        description="A hub id, such as MCG-NJU/videomae-base, which transformers downloads, or a "
        "folder that transformers wrote: config.json, the image or video processor's, weights.",
    )
    num_frames: int | None = Field(
        None,
        ge=1,
        description="Clips are resampled to this many frames, at the middles of equal segments; "
        "null: what the model was made for. Few models take another length.",
    )
    pooling: Pooling | None = Field(
        None,
        description="What of the last layer is the video's features: the `mean` over tokens, or "
        "the class token (`cls`); null: what suits the family. X-CLIP has its own.",
    )
    freeze: bool = Field(
        False, description="Keep the model as it is; its linear maps and the text tower learn."
    )
    own_text: bool = Field(
        False,
        description="In place of `text`, X-CLIP's own text tower. `embed_dim` must then be the "
        "model's, and cosines start as X-CLIP's, without its video-specific prompts.",
    )

    @model_validator(mode="after")
    def _one_text_tower(self) -> Self:
        if self.own_text and self.text != {"name": "words"}:
            raise ValueError("own_text is in place of text: leave one of them out")
        return self
