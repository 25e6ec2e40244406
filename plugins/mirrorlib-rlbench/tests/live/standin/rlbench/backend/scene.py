import random

import numpy as np
import standin_control as control

from rlbench.backend.exceptions import BoundaryError
from rlbench.backend.observation import Observation
from rlbench.observation_config import CAMERAS

TABLE, NEAR, FAR, FOCAL = 0.75, 0.01, 3.2, 1.2
START = np.array([0.28, 0.0, 1.4, 0.0, 1.0, 0.0, 0.0])
PLACES = {
    "front": (1.3, 0.0, 1.6),
    "left_shoulder": (-0.2, 0.6, 1.7),
    "right_shoulder": (-0.2, -0.6, 1.7),
    "overhead": (0.2, 0.01, 2.0),
}
HEIGHT = 0.05
"""Of the block, along the optical axis of the camera that looks at it."""
STEPS = 5
"""Of physics in every movement, unless told otherwise."""


def looking(place, towards):
    """Camera to world in RLBench's axes: x left, y up, z forward."""
    forward = np.subtract(towards, place)
    forward = forward / np.linalg.norm(forward)
    left = np.cross([0, 0, 1.0], forward)
    left /= np.linalg.norm(left)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([left, np.cross(forward, left), forward], 1)
    matrix[:3, 3] = place
    return matrix


class Scene:
    """A block on a table, whose place is drawn from numpy's global generator. Solved when the
    closed gripper is at it."""

    def __init__(self, config):
        self.config, self.task, self.callback = config, None, None
        self.block, self.pose, self.open, self.speed = np.zeros(2), START.copy(), 1.0, 0.0
        self.variation, self.drawn, self.shade, self.broken = 0, 0.0, 0, False

    def load(self, task):
        self.task, self.broken = task, False

    def register_step_callback(self, func):
        self.callback = func

    def reset(self):
        if self.broken:
            raise RuntimeError("The call failed on the V-REP side. Return value: -1")
        self.pose, self.open, self.speed = START.copy(), 1.0, 0.0

    def init_episode(self, index, max_attempts, place_demo=False):
        """Draws places until the planner accepts one; for a demonstration, as often as then."""
        self.variation, self.attempts = index, 0
        while self.attempts < max_attempts:
            self.drawn, other = np.random.uniform(size=2)
            if self.drawn < control.unplaceable:
                self.broken = control.breaking
                raise BoundaryError
            self.block = np.array([0.1 + self.drawn * 0.3, -0.2 + other * 0.4])
            self.shade = random.randrange(200) if self.task.shuffled else 0
            if not place_demo and (control.verdicts.pop(0) if control.verdicts else True):
                break
            self.attempts += 1
        return self.task.descriptions(index)

    def move(self, pose, steps=STEPS):
        """In a straight line; the planner's errors come before anything moves."""
        if control.errors:
            raise control.errors.pop(0)
        self.speed = 0.5
        for share in np.linspace(0, 1, steps + 1)[1:]:
            self.pose = self.pose + (pose - self.pose) * share
            self.step()
        self.speed = 0.0

    def step(self):
        if self.callback is not None:
            self.callback()

    def solved(self):
        place = [*self.block, TABLE + 0.01]
        return not self.open and np.linalg.norm(self.pose[:3] - place) < 0.02

    def sensors(self):
        return [c for c in CAMERAS if self._camera(c).rgb or self._camera(c).depth]

    def draw(self, camera):
        """Colours (H, W, 3) uint8, and depth (H, W) as a share of near to far, by RLBench's pixels:
        the middle of the one in column u, row v is at (u + 0.5, v)."""
        side = self._camera(camera).image_size[0]
        matrix, focal = self._matrix(camera), -FOCAL * side
        row, column = np.indices((side, side)).astype(float)
        x, y = (column + 0.5 - side / 2) / focal, (row - side / 2) / focal
        rays = np.stack([x, y, np.ones_like(x)], -1) @ matrix[:3, :3].T
        down = rays[..., 2] < -1e-6
        depth = np.where(down, (TABLE - matrix[2, 3]) / np.where(down, rays[..., 2], -1), FAR)
        place = matrix[:3, 3] + rays * depth[..., None]
        colours = np.full((side, side, 3), [90, self.shade, 90], np.uint8)
        colours[..., 2] = np.where(depth < FAR, 40, 220)
        near_block = (np.abs(place[..., :2] - self.block) < 0.05).all(-1) & (depth < FAR)
        colours[near_block] = [250, 20 + 40 * self.variation, int(200 * self.open)]
        depth = depth - HEIGHT * near_block
        share = (np.clip(depth, NEAR, FAR) - NEAR) / (FAR - NEAR)
        return colours, share.astype(np.float32)

    def get_observation(self):
        config, fields, misc = self.config, {}, {}
        for camera in CAMERAS:
            wanted = self._camera(camera)
            on = camera in self.sensors()
            colours, share = self.draw(camera) if on else (None, None)
            share = share if wanted.depth else None
            if share is not None and wanted.depth_in_meters:
                share = NEAR + share * (FAR - NEAR)
            fields |= {f"{camera}_rgb": colours if wanted.rgb else None}
            fields |= {f"{camera}_depth": share, f"{camera}_point_cloud": None}
            fields |= {f"{camera}_mask": np.zeros((2, 2)) if wanted.mask else None}
            if on:
                misc |= self._parameters(camera)
        robot = {
            "joint_velocities": np.full(7, self.speed),
            "joint_positions": np.resize(self.pose, 7) / 3,
            "joint_forces": np.ones(7),
            "gripper_open": float(self.open),
            "gripper_pose": self.pose.copy(),
            "gripper_matrix": np.eye(4),
            "gripper_joint_positions": np.full(2, 0.04 * self.open),
            "gripper_touch_forces": np.zeros(6),
            "task_low_dim_state": self.block.copy(),
        }
        fields |= {name: v if getattr(config, name) else None for name, v in robot.items()}
        if control.PERACT:
            fields["ignore_collisions"] = np.array(1.0)
        else:
            misc |= {"variation_index": self.variation, "joint_poses": [np.zeros(7)] * 7}
        return Observation(**fields, misc=misc)

    def _camera(self, camera):
        return getattr(self.config, f"{camera}_camera")

    def _matrix(self, camera):
        if camera == "wrist":
            return looking(np.add(self.pose[:3], [0, 0.05, 0.1]), (0.25, 0.0, TABLE))
        return looking(PLACES[camera], (0.25, 0.0, TABLE))

    def _parameters(self, camera):
        side = self._camera(camera).image_size[0]
        name, focal = f"{camera}_camera", -FOCAL * side
        return {
            f"{name}_extrinsics": self._matrix(camera),
            f"{name}_intrinsics": np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]),
            f"{name}_near": NEAR,
            f"{name}_far": FAR,
        }
