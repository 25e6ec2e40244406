"""How RLBench's numbers become mirrorlib's, recorded or live."""

from __future__ import annotations

import numpy as np

HALF_ROW = np.array([[0, 0, 0], [0, 0, 0.5], [0, 0, 0]])
"""Added to intrinsics: the centre of the top left pixel is (0.5, 0.5) in mirrorlib; in RLBench's
pictures it is (0.5, 0), as walls seen by two cameras and the table tell."""
PROPRIOCEPTION = {
    "pose": ("gripper_pose", "gripper_open"),
    "gripper": ("gripper_open", "gripper_joint_positions"),
}
"""What the executor is told of the robot, by RLBench's names, in this order."""
