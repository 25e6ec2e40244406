"""What a recipe may say of the tabletop."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Camera = Literal["front", "left_shoulder", "right_shoulder", "wrist"]
CAMERAS: tuple[Camera, ...] = ("front", "left_shoulder", "right_shoulder", "wrist")


class SimulatorConfig(BaseModel):
    """Options of the simulator `tabletop`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(128, ge=16, le=1024, description="side of every image in pixels")
    cameras: tuple[Camera, ...] = Field(
        CAMERAS, min_length=1, description="cameras to draw, in this order"
    )
    video_camera: Camera | None = Field(
        None, description="camera whose view of every motion `step` returns; none: no video"
    )
    video_fps: float = Field(10.0, gt=0, le=20, description="frames a second of that video")


class SourceConfig(BaseModel):
    """Options of the source `tabletop`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: dict[str, list[int] | None] | None = Field(
        None,
        description="the variations to use of each task (none: all), as in "
        "`{push_buttons: [0, 1, 2], turn_tap: null}`; none: every task",
    )
    train: int = Field(16, ge=0, description="training episodes of every instruction")
    val: int = Field(0, ge=0, description="validation episodes of every instruction")
    test: int = Field(8, ge=0, description="held-out episodes of every instruction")
    image_size: int = Field(128, ge=16, le=1024, description="side of every image in pixels")
    cameras: tuple[Camera, ...] = Field(
        CAMERAS, min_length=1, description="cameras to record, in this order"
    )
    frames_per_second: float = Field(
        4.0, gt=0, le=20, description="how often a frame is kept between keyframes"
    )
