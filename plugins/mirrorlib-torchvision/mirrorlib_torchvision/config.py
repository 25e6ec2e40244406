"""Options of the observers, as recipes write them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mirrorlib.video_text_config import VideoTextConfig

IMAGE_SIZE = "Frames are resized to this many pixels, in height and width."
NUM_FRAMES = "Clips are resampled to this many frames, at the middles of equal segments; "
FREEZE_BATCH_NORM = (
    "Keep the statistics of batch normalisation as they are. Otherwise each process takes them "
    "over its own rows, and two processes differ from one."
)


class ImageSize(BaseModel):
    image_size: int = Field(64, ge=16, description=IMAGE_SIZE)


class R3DConfig(VideoTextConfig, ImageSize):
    width: int = Field(
        16, gt=0, multiple_of=8, description="Channels of the first layer; the last has 6 times."
    )


class PublishedConfig(VideoTextConfig, ImageSize):
    """Of a network of torchvision's, whose weights are published."""

    weights: str | None = Field(
        None,
        description="A file of weights, or one of torchvision's names, such as KINETICS400_V1, "
        "which torchvision downloads; left out, the network starts from chance.",
    )


class R3D18Config(PublishedConfig):
    image_size: int = Field(112, ge=16, description=IMAGE_SIZE)
    freeze_batch_norm: bool = Field(False, description=FREEZE_BATCH_NORM)
    num_frames: int | None = Field(None, ge=1, description=NUM_FRAMES + "null: as they are.")


class MViTV2SConfig(PublishedConfig):
    image_size: int = Field(224, ge=32, multiple_of=32, description=IMAGE_SIZE)
    num_frames: int = Field(
        16,
        ge=2,
        multiple_of=2,
        description=NUM_FRAMES + "relative positions are resized where this, or the image size, "
        "is not what the published weights were trained with.",
    )


class S3DConfig(PublishedConfig):
    image_size: int = Field(224, ge=32, description=IMAGE_SIZE)
    freeze_batch_norm: bool = Field(False, description=FREEZE_BATCH_NORM)
    num_frames: int = Field(
        16, ge=8, description=NUM_FRAMES + "the network halves them three times."
    )


class Swin3DTConfig(PublishedConfig):
    image_size: int = Field(224, ge=32, description=IMAGE_SIZE)
    num_frames: int | None = Field(None, ge=1, description=NUM_FRAMES + "null: as they are.")
