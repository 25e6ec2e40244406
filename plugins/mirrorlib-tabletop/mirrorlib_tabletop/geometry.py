"""Quaternions (xyzw) and poses. World frame: x ahead of the robot, y to its left, z up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DOWN: Array = np.array([1.0, 0.0, 0.0, 0.0])
"""The tool points down and its fingers close along y."""


def down(yaw: float) -> Array:
    """The tool points down, turned by `yaw` radians about the world's z."""
    return np.array([np.cos(yaw / 2), np.sin(yaw / 2), 0.0, 0.0])


def about_z(angle: float) -> Array:
    """The rotation by `angle` radians about z."""
    return np.array([0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)])


def canonical(quaternion: Array) -> Array:
    """Of the two signs of a tool's orientation the one nearer to `DOWN`.

    Tools mostly point down, where w is about 0: a rule on w's sign would flip at random.
    """
    return -quaternion if quaternion @ DOWN < 0 else quaternion


def from_axes(x: Array, y: Array, z: Array) -> Array:
    """The rotation whose matrix has the orthonormal columns x, y, z, turned by less than 180
    degrees or with canonical sign (Bar-Itzhack 2000: an eigenvector, stable everywhere)."""
    m = np.stack([x, y, z], axis=1)
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
        ]
    )
    return canonical(np.linalg.eigh(k)[1][:, -1])


def angle_between(a: Array, b: Array) -> float:
    """The angle of the rotation from a to b, in [0, pi]."""
    return float(2 * np.arccos(min(1.0, abs(float(a @ b)))))


def slerp(a: Array, b: Array, t: float) -> Array:
    """From a (t = 0) to b (t = 1) along the shorter arc, at constant speed."""
    if a @ b < 0:
        a = -a
    half = np.arccos(np.clip(a @ b, -1.0, 1.0))
    if half < 1e-4:
        return b
    mixed = (np.sin((1 - t) * half) * a + np.sin(t * half) * b) / np.sin(half)
    return np.asarray(mixed / np.linalg.norm(mixed))


def to_mujoco(quaternion: Array) -> Array:
    """xyzw to MuJoCo's wxyz."""
    return quaternion[[3, 0, 1, 2]]


def from_mujoco(quaternion: Array) -> Array:
    """MuJoCo's wxyz to xyzw."""
    return quaternion[[1, 2, 3, 0]]


def above(position: Array, height: float) -> Array:
    """The point `height` metres over a position."""
    return position + np.array([0.0, 0.0, height])


def keyframe(position: Array, quaternion: Array, gripper_open: float) -> Array:
    """An action (9,): straight lines pass through nothing that a planner would avoid, so
    ignore_collisions is 1."""
    return np.concatenate([position, quaternion, [gripper_open, 1.0]])
