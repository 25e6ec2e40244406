"""Configuration of the executor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Site = Literal[
    "stage1_pooled",
    "stage1_views",
    "stage1_tokens",
    "stage2_pooled",
    "stage2_tokens",
    "prompt",
    "slots",
]
ChunkLayout = Literal["tokens", "groups", "joint"]

TINY_SITES = ("stage1_pooled", "stage1_views", "stage2_pooled", "prompt")
MVT_SITES = ("stage1_pooled", "stage1_tokens", "stage2_pooled", "stage2_tokens", "prompt", "slots")

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
    "small": {
        "image_size": 128,
        "width": 256,
        "depth": 6,
        "heads": 8,
        "channels": 64,
        "chunk_depth": 4,
        "crop": None,
        "zoom_side": 0.2,
        "point_stride": 1,
        "mvt": {"patch": 8, "cross_layers": 2},
    },
    "paper": {
        "image_size": 224,
        "width": 512,
        "depth": 8,
        "heads": 8,
        "channels": 64,
        "chunk_depth": 8,
        "crop": None,
        "proprioception": "vector",
        "rotation_sigma": 0.0,
        "zoom_side": 0.25,
        "zoom_jitter": 0.05,
        "yaw_degrees": 45.0,
        "shift": 0.125,
        "shift_z": 0.125,
        "point_stride": 1,
        "mvt": {},
    },
}
"""Sizes, and where they differ from the defaults other options. `tiny` learns on a CPU within
minutes; `small` suits one GPU and a table; `paper` has ARP's sizes for RLBench."""


class MvtConfig(BaseModel):
    """Options of the multi-view transformer and ARP's head, presets `small` and `paper`. The
    defaults are those of `paper`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch: int = Field(default=14, gt=0, description="Pixels a side of a patch; one token each.")
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share dropped of what attention and networks add, drawn from the rows' own "
        "seeds. The share is ARP's; that it is dropped there, and in the head alike, is not "
        "specified in public sources.",
    )
    cross_layers: int = Field(
        default=4,
        ge=0,
        description="How many of the `chunk_depth` layers, the first ones, read the views by "
        "cross-attention.",
    )
    chunk_heads: int = Field(
        default=8,
        gt=0,
        description="Attention heads of the chunking transformer; not specified in public sources.",
    )
    upsampler: float = Field(
        default=1.25,
        gt=0,
        description="Channels of the heat-map's convolutions over those of the map.",
    )
    sentence: bool | None = Field(
        default=None,
        description="Prepend the text tower's pooled vector to its words. None: where the tower is "
        "trained, as every parameter must have a part in the loss. ARP reads words alone.",
    )
    rgb_noise: float = Field(
        default=0.05,
        ge=0,
        description="Augmentation: uniform noise of colours, as a share of their range. The "
        "distribution is not specified in public sources.",
    )
    rotation_noise: tuple[float, ...] = Field(
        default=(0.1, 0.2, 0.4, 0.2, 0.1),
        description="In training, known rotation tokens are moved by -2, -1, 0, 1, 2 bins with "
        "these probabilities (an odd number of them, summing to 1) while labels stay clean.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.rotation_noise) % 2 == 0 or min(self.rotation_noise) < 0:
            raise ValueError("rotation_noise needs an odd number of probabilities")
        if abs(sum(self.rotation_noise) - 1) > 1e-6:
            raise ValueError(f"rotation_noise sums to {sum(self.rotation_noise):g}; it must be 1")
        return self


class ArpConfig(BaseModel):
    """Options of `arp`. Lengths are metres. A preset gives the options that are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["tiny", "small", "paper"] = Field(
        default="tiny",
        description="Where the sizes come from. tiny: convolutional stages that learn on a CPU. "
        "small, paper: a multi-view transformer, for one GPU or as large as ARP's.",
    )
    site: Site = Field(
        default="stage1_pooled",
        description="Which inner tensor is the representation e; not specified in public "
        "sources. tiny: stage1_pooled, the context token of the first stage, which read all "
        "views and words; stage1_views, the mean of that stage's view tokens; stage2_pooled, the "
        "context token of the zoomed stage; prompt, the mean of the tokens from which rotation "
        "and gripper are decoded. small, paper: stage1_pooled or stage2_pooled, the mean of the "
        "stage's map over views and patches; stage1_tokens or stage2_tokens, the mean of its "
        "tokens before they are projected to the map; prompt; slots, the mean of the last layer "
        "at the five action slots.",
    )
    chunks: ChunkLayout = Field(
        default="tokens",
        description="What is decoded at once. tokens: each of rotation x, y, z, gripper and "
        "collision by itself, in this order. Of preset tiny alone: groups: the rotation, then "
        "gripper and collision. joint: everything at once, without autoregression.",
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
    depth: int = Field(
        gt=0,
        description="Transformer layers of each stage; small, paper: the first half of them "
        "within each view, the second over all views and words.",
    )
    heads: int = Field(gt=0, description="Attention heads.")
    channels: int = Field(
        gt=0,
        description="tiny: channels of the full-resolution convolutions. small, paper: channels "
        "of a patch, and features of the robot's state; both together are what the chunking "
        "transformer has.",
    )
    chunk_depth: int = Field(gt=0, description="Layers of the chunking causal transformer.")
    crop: int | None = Field(
        multiple_of=4,
        gt=0,
        description="tiny: pixels a side of the crop at the predicted point.",
    )

    rotation_bins: int = Field(default=72, gt=1, description="Bins of a full turn, each axis.")
    rotation_sigma: float = Field(
        default=1.0,
        ge=0,
        description="Spread of the rotation's soft labels, in bins; 0: the true bin alone.",
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
        default=15.0,
        ge=0,
        description="Augmentation: largest turn about the vertical, through the world's origin "
        "(tiny) or the target (small, paper).",
    )
    shift: float = Field(
        default=0.05, ge=0, description="Augmentation: largest shift along x and y."
    )
    shift_z: float | None = Field(
        default=None, ge=0, description="Augmentation: largest shift along z; None: 30 % of shift."
    )
    point_stride: int = Field(
        default=2, gt=0, description="One pixel of this many becomes a point of the cloud."
    )
    mvt: MvtConfig | None = Field(
        default=None, description="Options of presets small and paper; None with tiny."
    )

    @model_validator(mode="before")
    @classmethod
    def _options_of_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        preset = PRESETS.get(given.get("preset", "tiny"), {})
        options = {**preset, **given}
        if isinstance(given.get("mvt"), Mapping) and "mvt" in preset:
            options["mvt"] = {**preset["mvt"], **given["mvt"]}
        return options

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

    @model_validator(mode="after")
    def _of_one_architecture(self) -> Self:
        if (self.mvt is None) != (self.preset == "tiny"):
            fix = "set preset to small or paper" if self.mvt else "leave mvt out"
            raise ValueError(f"preset {self.preset} and mvt do not go together; {fix}")
        if (self.crop is None) != (self.mvt is not None):
            raise ValueError("crop belongs to preset tiny, which needs it; leave it out")
        sites = MVT_SITES if self.mvt else TINY_SITES
        if self.site not in sites:
            raise ValueError(
                f"preset {self.preset} has no site {self.site}; use {', '.join(sites)}"
            )
        return self

    @model_validator(mode="after")
    def _sizes_of_mvt(self) -> Self:
        if self.mvt is None:
            return self
        if self.image_size % self.mvt.patch:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of mvt.patch {self.mvt.patch}"
            )
        if self.channels % 4 or 2 * self.channels % self.mvt.chunk_heads:
            raise ValueError(
                f"channels {self.channels} must be a multiple of 4, and twice as many of "
                f"mvt.chunk_heads {self.mvt.chunk_heads}"
            )
        if self.mvt.cross_layers > self.chunk_depth:
            raise ValueError(
                f"mvt.cross_layers {self.mvt.cross_layers} exceeds chunk_depth {self.chunk_depth}"
            )
        if self.chunks != "tokens":
            raise ValueError(f"chunks {self.chunks} belongs to preset tiny; use tokens")
        return self
