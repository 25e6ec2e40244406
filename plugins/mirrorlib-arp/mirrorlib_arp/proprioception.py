"""What the policy is told of the robot's own state, as features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirrorlib_arp.renderer import to_cube
from mirrorlib_arp.rotation import matrix_from_quaternion

OCTAVES = 6
"""Sines and cosines of pi s, 2 pi s, ... 32 pi s tell scalars apart that are 0.01 apart."""


def pose_features(vector: Tensor, centre: Tensor, side: float) -> Tensor:
    """vector: (B, P) = xyz, quaternion xyzw, then P - 7 scalars within about [-1, 1].

    Returns (B, 12 + 13 (P - 7)): place in the workspace cube within [-1, 1], rotation matrix, and
    of each scalar its value, sines and cosines.
    """
    place = to_cube(vector[:, :3], centre, side) * 2 - 1
    matrix = matrix_from_quaternion(vector[:, 3:7]).flatten(1)
    scalars = vector[:, 7:]
    frequency = math.pi * 2.0 ** torch.arange(OCTAVES, device=vector.device)
    phase = (scalars[..., None] * frequency).flatten(1)
    return torch.cat([place, matrix, scalars, phase.sin(), phase.cos()], 1)


def pose_features_dim(length: int) -> int:
    """Number of features of a vector of that length."""
    return 12 + (length - 7) * (1 + 2 * OCTAVES)
