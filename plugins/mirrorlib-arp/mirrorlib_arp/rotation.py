"""Quaternions xyzw, rotation matrices, and bins of Euler angles.

Euler angles are rotations about the fixed axes x, then y, then z: R = Rz Ry Rx, as PerAct and ARP
discretise them (5 degrees a bin with 72 bins).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """quaternion: (..., 4) xyzw of any positive length. Returns (..., 3, 3)."""
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Quaternion of the rotation b followed by a. a, b: (..., 4) xyzw."""
    u, v = a[..., :3], b[..., :3]
    s, t = a[..., 3:], b[..., 3:]
    vector = s * v + t * u + torch.linalg.cross(u, v)
    return torch.cat([vector, s * t - (u * v).sum(-1, keepdim=True)], -1)


def bins_from_quaternion(quaternion: Tensor, bins: int) -> Tensor:
    """Nearest bin of each Euler angle; bin k stands for k * 360 / bins - 180 degrees.

    Where the pitch falls into a bin of +-90 degrees, only one turn besides it is defined (gimbal
    lock); it is given to x, and z is zero. That loses nothing, since the pitch decodes to exactly
    +-90 degrees, and makes the labels a function of the rotation.

    quaternion: (B, 4) xyzw. Returns (B, 3) int64.
    """
    matrix = matrix_from_quaternion(quaternion)
    roll = torch.atan2(matrix[:, 2, 1], matrix[:, 2, 2])
    pitch = torch.atan2(-matrix[:, 2, 0], matrix[:, :2, 0].norm(dim=-1))
    yaw = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    width = 2 * math.pi / bins
    decoded = torch.round(pitch / width) * width
    locked = (decoded.abs() - math.pi / 2).abs() < 0.25 * width
    roll = torch.where(locked, torch.atan2(-matrix[:, 1, 2], matrix[:, 1, 1]), roll)
    yaw = torch.where(locked, 0, yaw)
    angles = torch.stack([roll, pitch, yaw], -1)
    return torch.round((angles + math.pi) / width).long() % bins


def quaternion_from_bins(index: Tensor, bins: int) -> Tensor:
    """index: (B, 3) int64. Returns (B, 4) xyzw float32."""
    half = index.to(torch.float32) * (math.pi / bins) - math.pi / 2
    zero, sine, cosine = torch.zeros_like(half[:, 0]), half.sin(), half.cos()
    about_x = torch.stack([sine[:, 0], zero, zero, cosine[:, 0]], -1)
    about_y = torch.stack([zero, sine[:, 1], zero, cosine[:, 1]], -1)
    about_z = torch.stack([zero, zero, sine[:, 2], cosine[:, 2]], -1)
    return multiply(about_z, multiply(about_y, about_x))


def soft_labels(index: Tensor, bins: int, sigma: float) -> Tensor:
    """A Gaussian over the circle of bins, normalised. index: (...) int64. sigma: bins; 0 gives the
    bin alone. Returns (..., bins) float32."""
    if sigma == 0:
        return F.one_hot(index, bins).float()
    distance = (torch.arange(bins, device=index.device) - index[..., None]).abs()
    distance = torch.minimum(distance, bins - distance).float()
    return torch.softmax(-(distance**2) / (2 * sigma**2), -1)
