"""Configuration of the text towers."""

from __future__ import annotations

from typing import Self

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
