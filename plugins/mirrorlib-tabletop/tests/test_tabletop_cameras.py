"""Images against ray casting through the true geometry."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from mirrorlib.interfaces import Observation
from mirrorlib_tabletop.colours import PALETTE
from mirrorlib_tabletop.config import CAMERAS
from mirrorlib_tabletop.render import COLLISION_GROUP
from mirrorlib_tabletop.simulator import TabletopSimulator

FLAT = {int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_MESH)}
TASKS = ("open_drawer", "stack_blocks", "slide_block_to_color_target")


def pixel_rays(observation: Observation, camera: str) -> np.ndarray:
    """(H, W, 3) world directions through pixel centres, of depth 1."""
    size = observation.depth[camera].shape[0]
    u, v = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    inside = np.linalg.inv(observation.intrinsics[camera])
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ inside.T
    return rays @ observation.extrinsics[camera][:3, :3].T


def cast(simulator: TabletopSimulator, eye: np.ndarray, ray: np.ndarray) -> tuple[float, int]:
    """Depth at which a ray of depth 1 meets what is drawn, and the geom that it meets."""
    world = simulator._stage.world
    groups = np.ones(6, np.uint8)
    groups[COLLISION_GROUP] = 0
    geom = np.zeros(1, np.int32)
    length = np.linalg.norm(ray)
    distance = mujoco.mj_ray(world.model, world.data, eye, ray / length, groups, 1, -1, geom)
    return distance / length, int(geom[0])


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("task", TASKS)
def test_depth_is_where_rays_hit(simulator: TabletopSimulator, task: str, camera: str) -> None:
    simulator.reset(task, 1, 5)
    observation = simulator.step(next(simulator.expert()))[0]
    rays = pixel_rays(observation, camera)
    eye = observation.extrinsics[camera][:3, 3]
    world = simulator._stage.world
    errors = []
    for row, column in np.ndindex(rays.shape[:2]):
        depth, geom = cast(simulator, eye, rays[row, column])
        if geom >= 0 and int(world.model.geom_type[geom]) in FLAT:
            errors.append(abs(depth - observation.depth[camera][row, column]))
    assert len(errors) > 1000
    # Elsewhere than at outlines, where a pixel's centre may just miss what the ray hits.
    assert np.quantile(errors, 0.97) < 1e-3


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_table_is_at_height_zero(simulator: TabletopSimulator, camera: str) -> None:
    observation, _ = simulator.reset("turn_tap", 0, 3)
    eye = observation.extrinsics[camera][:3, 3]
    rays = pixel_rays(observation, camera)
    points = eye + rays * observation.depth[camera][..., None]
    top = simulator._stage.world.model.geom("top").id
    table = [
        points[pixel]
        for pixel in np.ndindex(points.shape[:2])
        if cast(simulator, eye, rays[pixel])[1] == top
    ]
    assert len(table) > 200
    assert np.quantile(np.abs(np.array(table)[:, 2]), 0.97) < 1e-3


def test_colours_are_where_projection_says(simulator: TabletopSimulator) -> None:
    """Projected into the front camera, each visible button has its colour's pixel."""
    observation, _ = simulator.reset("push_buttons", 0, 2)
    target = simulator.task.points[simulator.task.target]  # type: ignore[attr-defined]
    to_camera = np.linalg.inv(observation.extrinsics["front"])
    seen = to_camera[:3] @ np.array([*target, 0.056, 1.0])
    pixel = observation.intrinsics["front"] @ seen / seen[2]
    colour = observation.rgb["front"][int(pixel[1]), int(pixel[0])] / 255
    nearest = min(PALETTE, key=lambda name: np.linalg.norm(colour - np.array(PALETTE[name])))
    assert nearest == "red"


@pytest.mark.parametrize("camera", CAMERAS)
def test_camera_frames_are_opencv(simulator: TabletopSimulator, camera: str) -> None:
    observation, _ = simulator.reset("lift_block", 0, 1)
    intrinsics, extrinsics = observation.intrinsics[camera], observation.extrinsics[camera]
    assert observation.rgb[camera].shape == (64, 64, 3)
    assert observation.rgb[camera].dtype == np.uint8
    assert observation.depth[camera].dtype == np.float32
    assert intrinsics[0, 0] == intrinsics[1, 1] > 0
    assert intrinsics[0, 2] == intrinsics[1, 2] == 32
    np.testing.assert_allclose(extrinsics[:3, :3].T @ extrinsics[:3, :3], np.eye(3), atol=1e-9)
    assert np.linalg.det(extrinsics[:3, :3]) == pytest.approx(1)
    ahead = np.linalg.inv(extrinsics) @ np.array([0.5, 0.0, 0.0, 1.0])
    assert ahead[2] > 0.3
