"""Sizes of ViCLIP, and the options of the observer as recipes write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Preset = Literal["tiny", "b16", "l14"]
Representation = Literal["embedding", "features"]
Tuning = Literal["full", "frozen_text", "lora"]


class ViCLIPConfig(BaseModel):
    """Sizes of both towers; the defaults are those of the published ViCLIP-B/16."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(
        224, gt=0, description="Height and width of a frame in pixels, a multiple of `patch_size`."
    )
    patch_size: int = Field(16, gt=0, description="Height and width of a patch in pixels.")
    vision_width: int = Field(
        768, gt=0, description="Features of a patch, a multiple of `vision_heads`."
    )
    vision_layers: int = Field(12, gt=0, description="Transformer layers of the video tower.")
    vision_heads: int = Field(12, gt=0, description="Attention heads of the video tower.")
    embed_dim: int = Field(
        512, gt=0, description="Dimension P of the space where videos and texts are compared."
    )
    num_frames: int = Field(8, gt=0, description="Frames of a clip.")
    context_length: int = Field(32, gt=1, description="Tokens of a text; longer ones are cut.")
    vocab_size: int = Field(49408, gt=0, description="Tokens there are.")
    text_width: int = Field(512, gt=0, description="Features of a token, a multiple of its heads.")
    text_heads: int = Field(8, gt=0, description="Attention heads of the text tower.")
    text_layers: int = Field(12, gt=0, description="Transformer layers of the text tower.")
    drop_path: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Chance, in training, that the last layer's branches of the video tower are "
        "left out for a row; it grows linearly from 0 at the first layer.",
    )
    masking_prob: float = Field(
        0.9, ge=0, lt=1, description="Share of patches left out where a masked clip is asked for."
    )
    temp_min: float = Field(
        0.01, gt=0, description="Least temperature of the contrastive loss, and its first value."
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for size, part in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_heads"),
            ("text_width", "text_heads"),
        ):
            whole, divisor = getattr(self, size), getattr(self, part)
            if whole % divisor:
                raise ValueError(f"{size} {whole} must be a multiple of {part} {divisor}")
        return self

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> Self:
        """`tiny` (for a CPU), `b16` or `l14`, with changes. Raises pydantic.ValidationError."""
        return cls(**(PRESETS[name] | changes))

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return (self.image_size // self.patch_size) ** 2


PRESETS: dict[Preset, dict[str, Any]] = {
    "tiny": {
        "image_size": 64,
        "vision_width": 128,
        "vision_layers": 4,
        "vision_heads": 2,
        "embed_dim": 128,
        "text_width": 128,
        "text_heads": 2,
        "text_layers": 2,
    },
    "b16": {},
    "l14": {
        "patch_size": 14,
        "vision_width": 1024,
        "vision_layers": 24,
        "vision_heads": 16,
        "embed_dim": 768,
        "text_width": 768,
        "text_heads": 12,
    },
}

Size = Annotated[
    int | None, Field(gt=0, description="As in ViCLIPConfig; left out, the preset's or the file's.")
]


class ObserverConfig(BaseModel):
    """Options of the observer `viclip`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset | None = Field(
        None,
        description="Sizes: `tiny`, `b16` or `l14`. Left out: those of the weights, or `b16` where "
        "there are none. The sizes below replace single ones.",
    )
    image_size: Size = None
    patch_size: Size = None
    vision_width: Size = None
    vision_layers: Size = None
    vision_heads: Size = None
    embed_dim: Size = None
    num_frames: Size = None
    context_length: Size = None
    vocab_size: Size = None
    text_width: Size = None
    text_heads: Size = None
    text_layers: Size = None
    weights: str | None = Field(
        None,
        description="A file (.pth, .safetensors), or a repository of the Hugging Face hub, "
        "`organisation/name`, whose model.safetensors is fetched, or `organisation/name:file`. "
        "Left out, the model starts from chance.",
    )
    tuning: Tuning = Field(
        "frozen_text",
        description="What learns: `frozen_text`, all but the text tower, as ViCLIP was trained; "
        "`full`, everything; `lora`, low-rank updates of the video tower's linear maps, with "
        "everything else but the temperature frozen.",
    )
    lora_rank: int = Field(8, gt=0, description="Rank of the updates where `tuning` is `lora`.")
    lora_alpha: float = Field(
        16.0, gt=0, description="The updates are scaled by `lora_alpha / lora_rank`."
    )
    representation: Representation = Field(
        "embedding",
        description="What is aligned: `embedding`, the video's embedding before it is scaled to "
        "length 1; or `features`, the class token after the last normalisation, which it is a "
        "linear map of. Not specified in public sources.",
    )
    temperature: float | None = Field(
        None,
        gt=0,
        le=1,
        description="First value of the learnt temperature of the task loss, not below "
        "`temp_min`. Left out: that of the weights, or `temp_min`.",
    )
    temp_min: float = Field(0.01, gt=0, description="Least temperature of the task loss.")
    masking_prob: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of patches left out in training; ViCLIP's own training left out 0.9.",
    )
    drop_path: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Chance, in training, that the last layer's branches of the video tower are "
        "left out for a row; it grows linearly from 0 at the first layer.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute each layer again in the backward pass: a third more time, for a "
        "fraction of the memory.",
    )

    @model_validator(mode="after")
    def _warm_enough(self) -> Self:
        if self.temperature is not None and self.temperature < self.temp_min:
            raise ValueError(f"temperature {self.temperature} is below temp_min {self.temp_min}")
        return self

    def sizes(self) -> dict[str, int]:
        """The single sizes that were given."""
        names = ViCLIPConfig.model_fields.keys() - {"drop_path", "masking_prob", "temp_min"}
        return {name: size for name in names if (size := getattr(self, name)) is not None}
