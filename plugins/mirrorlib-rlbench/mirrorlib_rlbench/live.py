"""What RLBench senses live, as its recordings are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mirrorlib.interfaces import Observation
from mirrorlib_rlbench.conventions import HALF_ROW, PROPRIOCEPTION
from mirrorlib_rlbench.episode import AXES, FOCAL


def observed(raw: Any, cameras: Sequence[str], proprioception: str) -> Observation:
    """One of RLBench's observations, whose depth is a share of near to far plane.

    cameras: in this order. proprioception: `pose` or `gripper`, as the source's. The same numbers
    as the source gives for the frame when recorded, but for one: where something wide is held and
    RLBench reads the gripper as open, the source corrects `gripper_open` by what came later, which
    is not known yet. Proprioception is what the gripper reads in both.
    """
    told = raw.misc
    parts = [np.atleast_1d(getattr(raw, name)) for name in PROPRIOCEPTION[proprioception]]
    return Observation(
        rgb={camera: np.asarray(getattr(raw, f"{camera}_rgb"), np.uint8) for camera in cameras},
        depth={
            camera: metres(
                getattr(raw, f"{camera}_depth"),
                told[f"{camera}_camera_near"],
                told[f"{camera}_camera_far"],
            )
            for camera in cameras
        },
        intrinsics={
            camera: told[f"{camera}_camera_intrinsics"] * FOCAL + HALF_ROW for camera in cameras
        },
        extrinsics={camera: told[f"{camera}_camera_extrinsics"] * AXES for camera in cameras},
        gripper_pose=np.array(raw.gripper_pose, np.float64),
        gripper_open=float(raw.gripper_open),
        proprioception=np.concatenate(parts).astype(np.float32),
    )


def metres(share: Any, near: float, far: float) -> Any:
    """(H, W) float32 along the optical axis, of shares (H, W) in [0, 1]."""
    return (near + np.asarray(share, np.float64) * (far - near)).astype(np.float32)
