"""What a recipe may say of RLBench's demonstrations."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Camera = Literal["front", "left_shoulder", "right_shoulder", "wrist", "overhead"]
CAMERAS: tuple[Camera, ...] = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")
SPLITS = ("train", "val", "test")
ROOT = "MIRRORLIB_RLBENCH_DATA"
"""The environment variable that names the folder of demonstrations where a recipe does not."""


class RLBenchConfig(BaseModel):
    """Options of the source `rlbench`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str | None = Field(
        None,
        min_length=1,
        description="folder that holds a folder of tasks for every split, in RLBench's layout or "
        f"PerAct's; ~ is the home folder; none: ${ROOT}",
    )
    tasks: list[str] | dict[str, list[int] | None] | None = Field(
        None,
        description="the tasks to use, or the variations to use of each (none: all), as in "
        "`{push_buttons: [0, 1, 2], open_drawer: null}`; none: every task found",
    )
    train: int | None = Field(
        None, ge=0, description="training episodes of every variation, the first ones; none: all"
    )
    val: int | None = Field(
        None, ge=0, description="validation episodes of every variation, likewise"
    )
    test: int | None = Field(None, ge=0, description="held-out episodes of every variation")
    folders: dict[Literal["train", "val", "test"], str] = Field(
        default_factory=dict,
        description="folder in `root` of a split that has not the split's name, as in "
        "`{train: train_peract}`",
    )
    cameras: tuple[str, ...] = Field(
        CAMERAS[:4], min_length=1, description="cameras to read, in this order"
    )
    proprioception: Literal["pose", "gripper"] = Field(
        "pose",
        description="what the executor is told of the robot. pose: (8) the tool's xyz and "
        "quaternion xyzw, and whether the gripper is open. gripper: (3) ARP's, whether the gripper "
        "is open and both finger joints; set executor.proprioception to vector",
    )
    workspace: tuple[float, float, float, float, float, float] = Field(
        (-0.3, -0.5, 0.6, 0.7, 0.5, 1.6),
        description="bounds in metres, smallest x, y, z, then largest; PerAct's",
    )

    def folder(self, split: str) -> str:
        """Name of the folder of a split."""
        return next((name for of, name in self.folders.items() if of == split), split)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [self.folder(split) for split in SPLITS]
        if len(set(names)) < len(names):
            raise ValueError(f"splits share a folder of {', '.join(names)}; give each its own")
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"cameras {', '.join(self.cameras)} name one twice")
        low, high = self.workspace[:3], self.workspace[3:]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"workspace {self.workspace} must give the smallest x, y, z first")
        return self


class SimulatorConfig(BaseModel):
    """Options of the simulator `rlbench`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(128, ge=16, le=1024, description="side of every image in pixels")
    cameras: tuple[Camera, ...] = Field(
        CAMERAS[:4], min_length=1, description="cameras to draw, in this order; the source's"
    )
    proprioception: Literal["pose", "gripper"] = Field(
        "pose", description="what the executor is told of the robot, as the source's option"
    )
    workspace: tuple[float, float, float, float, float, float] = Field(
        (-0.3, -0.5, 0.6, 0.7, 0.5, 1.6),
        description="bounds of actions in metres, smallest x, y, z, then largest; PerAct's",
    )
    renderer: Literal["opengl", "opengl3"] = Field(
        "opengl", description="opengl3 draws shadows and takes some eight times as long"
    )
    video_camera: Camera | None = Field(
        None, description="camera whose view of every motion `step` returns; none: no video"
    )
    video_fps: float = Field(10.0, gt=0, le=20, description="frames a second of that video")
