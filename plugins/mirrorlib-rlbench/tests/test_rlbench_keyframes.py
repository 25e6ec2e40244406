"""Keyframes against a plain loop over the rule's words, and grasps that read as open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirrorlib_rlbench.keyframes import gripper_command, keyframes


def by_the_words(gripper: list[float], speeds: list[float]) -> list[int]:
    """PerAct's rule, frame by frame; negative indices reach the end, as in Python lists."""
    count, found, wait = len(gripper), [], 0
    for i in range(count):
        calm = i < count - 2 and len({gripper[i + k] for k in (-2, -1, 0, 1)}) == 1
        stop = wait <= 0 and calm and abs(speeds[i]) <= 0.1
        wait = 4 if stop else wait - 1
        if i > 0 and (gripper[i] != gripper[i - 1] or i == count - 1 or stop):
            found.append(i)
    if len(found) > 1 and found[-1] - found[-2] == 1:
        del found[-2]
    return found or [0]


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.1, -0.1, 0.101, 0.5])),
        min_size=1,
        max_size=30,
    )
)
@example(frames=[(1.0, 0.0)] * 14)
@example(frames=[(1.0, 0.5)] * 5 + [(0.0, 0.5)] * 2)
@example(frames=[(1.0, 0.0)])
@example(frames=[(1.0, 0.0), (0.0, 0.0)])
def test_the_rule(frames: list[tuple[float, float]]) -> None:
    gripper, speeds = (list(part) for part in zip(*frames, strict=True))
    velocities = np.zeros((len(frames), 7))
    velocities[:, 3] = speeds
    found = keyframes(np.array(gripper, np.float32), velocities)
    assert found == by_the_words(gripper, speeds)
    assert found[-1] == len(frames) - 1 and all(np.diff(found) > 0)


def test_without_velocities_only_the_gripper_counts() -> None:
    gripper = np.array([1, 1, 0, 0, 0, 1, 1, 1], np.float32)
    assert keyframes(gripper, None) == [2, 5, 7]


def command(widths: list[float], opened: list[int] | None = None) -> list[float]:
    reads = np.array([w > 0.9 for w in widths] if opened is None else opened, np.float32)
    return gripper_command(reads, np.repeat(np.array(widths)[:, None] * 0.04, 2, 1)).tolist()


LID = [1, 1, 0.97, 0.94, 0.92, 0.92, 0.92, 0.92, 0.95, 1, 1]


def test_a_wide_grasp_is_told() -> None:
    """close_jar: the lid keeps the fingers at 0.92 of their opening, which RLBench calls open."""
    told = command(LID)
    assert told == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    assert keyframes(np.ones(11, np.float32), np.ones((11, 7))) == [10]
    assert keyframes(np.array(told, np.float32), np.ones((11, 7))) == [3, 10]  # 9 is beside 10
    assert command(LID[:8]) == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "widths",
    [
        [1, 0.99, 0.985, 0.99, 1],  # pressed a little by what it touches
        [1, 0.95, 0.7, 0.2, 0.2, 0.5, 0.93, 1],  # on its way, there and back
        [0.92, 0.92, 1, 1],  # not yet open when the episode began
        [0.3, 0.3, 0.3],
        [0.5, 0.93, 0.94, 1],
    ],
)
def test_what_is_no_wide_grasp(widths: list[float]) -> None:
    assert command(widths) == [float(width > 0.9) for width in widths]


def test_without_fingers_nothing_changes() -> None:
    assert gripper_command(np.array([1, 0, 1], np.float32), None).tolist() == [1, 0, 1]
