"""Configuration of the executor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Site = Literal["stage1_pooled", "stage1_views", "stage2_pooled", "prompt"]
ChunkLayout = Literal["tokens", "groups", "joint"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "image_size": 64,
        "width": 128,
        "depth": 4,
        "heads": 4,
        "channels": 16,
        "chunk_depth": 2,
        "crop": 16,
    },
}
"""Sizes. `tiny` learns on a CPU within minutes."""


class ArpConfig(BaseModel):
    """Options of `arp`. Lengths are metres. A preset gives the sizes that are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["tiny"] = Field(default="tiny", description="Where the sizes come from.")
    site: Site = Field(
        default="stage1_pooled",
        description="Which inner tensor is the representation e; not specified in public "
        "sources. stage1_pooled: the context token of the first stage, which read all views "
        "and words. stage1_views: the mean of that stage's view tokens. stage2_pooled: the "
        "context token of the zoomed stage. prompt: the mean of the tokens from which rotation "
        "and gripper are decoded.",
    )
    chunks: ChunkLayout = Field(
        default="tokens",
        description="What is decoded at once. tokens: each of rotation x, y, z, gripper and "
        "collision by itself, in this order. groups: the rotation, then gripper and collision. "
        "joint: everything at once, without autoregression.",
    )
    text: dict[str, Any] = Field(
        default_factory=lambda: {"name": "words"},
        description="The text tower that reads instructions: its name and its options.",
    )
    proprioception: Literal["pose", "vector"] = Field(
        default="pose",
        description="pose: the first seven numbers are the tool's pose in the world, xyz and "
        "quaternion xyzw, which augmentation moves along; the rest are scalars within about "
        "[-1, 1]. vector: plain numbers.",
    )
    proprioception_dim: int | None = Field(
        default=None, gt=0, description="Length of the vector; None: from the source, else 9."
    )
    workspace: tuple[float, float, float, float, float, float] | None = Field(
        default=None,
        description="Bounds, smallest x, y, z, then largest; points outside are dropped. None: "
        "from the source, else a cube of 0.8 m before the robot.",
    )

    image_size: int = Field(multiple_of=8, gt=0, description="Pixels a side of a rendered view.")
    width: int = Field(gt=0, description="Features of a token, a multiple of `heads`.")
    depth: int = Field(gt=0, description="Transformer layers of each stage.")
    heads: int = Field(gt=0, description="Attention heads.")
    channels: int = Field(gt=0, description="Channels of the full-resolution convolutions.")
    chunk_depth: int = Field(gt=0, description="Layers of the chunking causal transformer.")
    crop: int = Field(
        multiple_of=4, gt=0, description="Pixels a side of the crop at the predicted point."
    )

    rotation_bins: int = Field(default=72, gt=1, description="Bins of a full turn, each axis.")
    rotation_sigma: float = Field(
        default=1.0, gt=0, description="Spread of the rotation's soft labels, in bins."
    )
    heatmap_sigma: float = Field(
        default=1.5, gt=0, description="Spread of the heat-maps' Gaussian targets, in pixels."
    )
    zoom_side: float = Field(default=0.32, gt=0, description="Side of the second stage's cube.")
    zoom_jitter: float = Field(
        default=0.05,
        ge=0,
        description="In training the second cube's centre misses the target by up to this much, "
        "along each axis.",
    )
    yaw_degrees: float = Field(
        default=15.0, ge=0, description="Augmentation: largest turn about the world's z axis."
    )
    shift: float = Field(
        default=0.05,
        ge=0,
        description="Augmentation: largest shift along x and y; along z 30 % of it.",
    )
    point_stride: int = Field(
        default=2, gt=0, description="One pixel of this many becomes a point of the cloud."
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**PRESETS.get(given.get("preset", "tiny"), {}), **given}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if "name" not in self.text:
            raise ValueError("text needs the name of a text tower, such as {name: words}")
        if self.proprioception == "pose" and (self.proprioception_dim or 9) < 7:
            raise ValueError(
                f"proprioception_dim {self.proprioception_dim} holds no pose; "
                "set proprioception to vector"
            )
        if self.workspace and any(
            low >= high for low, high in zip(self.workspace[:3], self.workspace[3:], strict=True)
        ):
            raise ValueError(f"workspace {self.workspace} must give the smallest x, y, z first")
        return self
