"""Which frames of a demonstration are keyframes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STILL = 0.1
"""rad/s: an arm none of whose joints moves faster stands still."""
COOLDOWN = 4
"""Frames after a stop in which no other stop counts."""
HELD = 0.96
"""Share of the widest opening: fingers that keep below it hold something."""


def keyframes(gripper: NDArray[np.float32], velocities: NDArray[np.float64] | None) -> list[int]:
    """PerAct's rule (Shridhar et al. 2022, section 3.2): frames where the gripper has changed,
    where the arm stands still, and the last.

    gripper: (T,) 1 open, 0 closed. velocities: (T, 7) of the joints, rad/s; None: only changes of
    the gripper count. A stop needs every joint below 0.1 rad/s, the same gripper in the two
    frames before and the one after, and no stop within the four frames before. The frames before
    the first are the last ones, as in PerAct's code. The last frame but one is none. Returns
    ascending indices; of a single frame, that frame.
    """
    last = len(gripper) - 1
    steady = np.ones(len(gripper), bool)
    for shift in (1, 2, -1):
        steady &= gripper == np.roll(gripper, shift)
    still = np.zeros(len(gripper), bool)
    if velocities is not None:
        still = (np.abs(velocities) <= STILL).all(1) & steady
    found, wait = [], 0
    for frame in range(last):
        stopped = bool(still[frame]) and wait <= 0
        wait = COOLDOWN if stopped else wait - 1
        if frame and (stopped or gripper[frame] != gripper[frame - 1]):
            found.append(frame)
    if found and found[-1] == last - 1:
        found.pop()
    return [*found, last]


def gripper_command(
    opened: NDArray[np.float32], fingers: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """What the gripper was told: closed also where it holds something so wide that RLBench, which
    calls a gripper open above 0.9 of its opening, reads it as open (the lid of close_jar: 0.92).

    opened: (T,) as recorded, 1 open, 0 closed. fingers: (T, 2) joint positions, metres; None:
    nothing is changed. Returns (T,). Closed are runs of frames that read open, after a frame that
    was wider, with fingers below 0.96 of their widest, unless a neighbouring frame reads closed:
    then the gripper was only on its way.
    """
    told = (opened > 0.5).astype(np.float32)
    if fingers is None or not told.any():
        return told
    width = fingers.sum(1)
    narrow = (told == 1) & (width < HELD * width[told == 1].max())
    edges = np.flatnonzero(np.diff(np.concatenate([[False], narrow, [False]]).astype(int)))
    closed = told == 0
    for start, end in edges.reshape(-1, 2):
        if start and not closed[start - 1] and not closed[end : end + 1].any():
            told[start:end] = 0
    return told
