"""Tiny episodes in RLBench's files, written for the tests: a bare table, cast by hand."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

TABLE = 0.75
NEAR, FAR = 0.01, 3.2
SIZE = 12
FOCAL = 14.0
CENTRE = SIZE / 2


class Demo:
    """Stands in for RLBench's when a test writes a pickle."""


class Observation:
    """Likewise."""


for kind, module in ((Demo, "rlbench.demo"), (Observation, "rlbench.backend.observation")):
    kind.__module__ = module


@pytest.fixture
def rlbench_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RLBench's modules as far as writing pickles needs them; never there when one is read."""
    for kind in (Demo, Observation):
        parts = kind.__module__.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or ModuleType(name))
        setattr(sys.modules[kind.__module__], kind.__name__, kind)
    yield


def pose(place: tuple[float, float, float], towards: tuple[float, float, float]) -> np.ndarray:
    """Camera to world in RLBench's axes: x left, y up, z forward."""
    forward = np.subtract(towards, place)
    forward = forward / np.linalg.norm(forward)
    left = np.cross([0, 0, 1.0], forward)
    left /= np.linalg.norm(left)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([left, np.cross(forward, left), forward], 1)
    matrix[:3, 3] = place
    return matrix


POSES = {
    "front": pose((1.3, 0.0, 1.6), (0.2, 0.0, TABLE)),
    "left_shoulder": pose((-0.2, 0.6, 1.7), (0.3, 0.0, TABLE)),
    "wrist": pose((0.3, 0.05, 1.3), (0.25, 0.0, TABLE)),
    "overhead": pose((0.2, 0.01, 2.0), (0.2, 0.0, TABLE)),
}


def cast(camera: str) -> np.ndarray:
    """(H, W) metres along the optical axis to the table, by RLBench's pixels."""
    matrix = POSES[camera]
    row, column = np.indices((SIZE, SIZE)).astype(float)
    rays = np.stack([(CENTRE - column) / FOCAL, (CENTRE - row) / FOCAL, np.ones_like(row)], -1)
    drop = (rays @ matrix[:3, :3].T)[..., 2]
    depth = np.where(drop < 0, (TABLE - matrix[2, 3]) / np.minimum(drop, -1e-9), FAR)
    return np.clip(depth, NEAR, FAR)


@pytest.fixture
def scene() -> SimpleNamespace:
    """What the written pictures show."""
    return SimpleNamespace(cast=cast, poses=POSES, focal=FOCAL)


@dataclass
class Script:
    """What a written episode holds. Lists have one entry a frame."""

    gripper: list[float] = field(default_factory=lambda: [1, 1, 1, 0, 0, 0, 0, 1, 1])
    speed: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0])
    cameras: tuple[str, ...] = ("front", "left_shoulder", "wrist")
    vintage: str = "upstream"
    """upstream, peract, 2020 (no near and far) or 2019."""
    protocol: int = 4
    frames: list[int] | None = None
    """Frames of which pictures are written; None: of all."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further attributes of every observation."""
    variation: int = 0
    descriptions: Any = ("open the drawer", "pull it open")


def misc_of(script: Script) -> dict[str, Any]:
    misc: dict[str, Any] = {}
    for camera in script.cameras:
        misc[f"{camera}_camera_extrinsics"] = POSES[camera]
        misc[f"{camera}_camera_intrinsics"] = np.array(
            [[-FOCAL, 0, CENTRE], [0, -FOCAL, CENTRE], [0, 0, 1.0]]
        )
        if script.vintage != "2020":
            misc |= {f"{camera}_camera_near": NEAR, f"{camera}_camera_far": FAR}
    if script.vintage == "upstream":
        misc["variation_index"] = script.variation
    return misc


def low_dim(script: Script) -> Any:
    """The pickle's content in the vintage's manner."""
    observations = []
    for frame, (gripper, speed) in enumerate(zip(script.gripper, script.speed, strict=True)):
        observation: Any = Observation()
        observations.append(observation)
        values: dict[str, Any] = {
            "front_rgb": None,
            "joint_velocities": np.full(7, speed),
            "joint_positions": np.arange(7) + 0.01 * frame,
            "joint_forces": None,
            "gripper_pose": np.array([0.3, 0.01 * frame, 1.0, 0, 0, 0, 1]),
            "gripper_joint_positions": np.full(2, 0.04 * gripper),
            "task_low_dim_state": np.zeros(frame),
        }
        if script.vintage == "2019":
            observation.__dict__ |= values | {"gripper_open_amount": [gripper, gripper]}
            continue
        values |= {"gripper_open": float(gripper > 0.9), "misc": misc_of(script)}
        observation.__dict__ |= values | script.fields
    if script.vintage == "2019":
        return observations
    demo: Any = Demo()
    demo._observations = observations
    demo.random_seed = np.random.RandomState(0).get_state()
    if script.vintage == "peract":
        demo.variation_number = script.variation
    else:
        demo.num_reset_attempts = 1
    return demo


def write_pictures(folder: Path, camera: str, frames: list[int]) -> None:
    """Colours tell the frame's number; depth is the table's."""
    share = (cast(camera) - NEAR) / (FAR - NEAR)
    code = np.round(share * (2**24 - 1)).astype(np.uint32)
    depth = np.stack([code >> 16, code >> 8 & 255, code & 255], -1).astype(np.uint8)
    for kind in ("rgb", "depth"):
        (folder / f"{camera}_{kind}").mkdir()
    for frame in frames:
        rgb = np.random.default_rng(frame).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        rgb[0, 0] = frame
        Image.fromarray(rgb).save(folder / f"{camera}_rgb" / f"{frame}.png")
        Image.fromarray(depth).save(folder / f"{camera}_depth" / f"{frame}.png")


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, rlbench_modules: None) -> Writer:
    """Writes an episode under `tmp_path / place` and returns its folder."""

    def write_episode(place: str = "task/variation0/episodes/episode0", **changes: Any) -> Path:
        script = Script(**changes)
        folder = tmp_path / place
        folder.mkdir(parents=True)
        content = pickle.dumps(low_dim(script), script.protocol)
        (folder / "low_dim_obs.pkl").write_bytes(content)
        shown = range(len(script.gripper)) if script.frames is None else script.frames
        for camera in script.cameras:
            write_pictures(folder, camera, list(shown))
        told = folder if "all_variations" in place else folder.parents[1]
        if script.descriptions is not None:
            told_of = script.descriptions
            told_of = list(told_of) if isinstance(told_of, tuple) else told_of
            (told / "variation_descriptions.pkl").write_bytes(pickle.dumps(told_of))
        if "all_variations" in place:
            (folder / "variation_number.pkl").write_bytes(pickle.dumps(script.variation))
        return folder

    return write_episode
