"""Configuration of the dense policy."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DenseConfig(BaseModel):
    """Options of `DensePolicy`. It observes a state, pictures, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action_dim: int = Field(gt=0, description="Numbers of one action.")
    horizon: int = Field(gt=0, description="Future actions that are predicted.")
    state_dim: int | None = Field(
        default=None, gt=0, description="Numbers of the state; None: no state is observed."
    )
    cameras: int = Field(default=0, ge=0, description="Pictures that are observed.")
    chunk: int | None = Field(
        default=None,
        gt=0,
        description="Actions decoded at once; None: all of the horizon. 1 is autoregression "
        "action by action, for comparison.",
    )
    components: int = Field(
        default=1, gt=0, description="Gaussians of the mixture that predicts an action."
    )
    min_std: float = Field(
        default=1e-2,
        gt=0,
        description="Smallest standard deviation of an action, in standard deviations of the data.",
    )
    width: int = Field(default=128, gt=0, description="Features of a token, a multiple of `heads`.")
    layers: int = Field(default=4, gt=0, description="Layers of the chunking transformer.")
    heads: int = Field(default=4, gt=0, description="Attention heads.")
    channels: int = Field(
        default=32, multiple_of=8, gt=0, description="Channels of the first convolution."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout of the transformer.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.cameras and self.width % 8:
            raise ValueError(f"width {self.width} must be a multiple of 8 to encode pictures")
        if self.state_dim is None and not self.cameras:
            raise ValueError("nothing is observed: set state_dim, cameras, or both")
        return self
