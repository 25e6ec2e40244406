"""Options that video-text observers share, as recipes write them. Never imports torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Representation = Literal["embedding", "features"]


class VideoTextConfig(BaseModel):
    """What `mirrorlib.video_text.VideoTextObserver` takes, whatever the video network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: int = Field(
        128, gt=0, description="Dimension P of the space where videos and texts are compared."
    )
    representation: Representation = Field(
        "embedding",
        description="What is aligned: `embedding`, the video's embedding before it is scaled to "
        "length 1, which is what ViCLIP gives for a video; or `features`, the pooled features it "
        "is a linear map of. Not specified in public sources.",
    )
    temperature: float = Field(
        0.1, ge=0.01, le=1, description="First value of the learnt temperature of the task loss."
    )
    augment: bool = Field(
        True,
        description="In training, shift each clip by up to a twelfth of its size and vary its "
        "contrast (15 %) and brightness (5 %).",
    )
    text: dict[str, Any] = Field(
        default={"name": "words"},
        description="The text tower: its `name` among `mirrorlib plugins`, and its options.",
    )

    @field_validator("text")
    @classmethod
    def _has_name(cls, text: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(text.get("name"), str):
            raise ValueError("the text tower needs a name, such as {name: words}")
        return text
