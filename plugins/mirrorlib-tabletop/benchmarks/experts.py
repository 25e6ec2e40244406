"""How often experts, and replays of their measured keyframes, solve unseen scenes.

`python experts.py [SCENES A TASK]`; the second table replays what a policy learns from: the
poses and gripper states that the robot reached, not those the expert commanded.
"""

from __future__ import annotations

import sys

import numpy as np
from trials import execute, row, scenes

from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.geometry import Array, keyframe
from mirrorlib_tabletop.simulator import TabletopSimulator


def demonstrate(simulator: TabletopSimulator) -> tuple[bool, list[Array]]:
    """Whether the expert succeeds, and the keyframes as measured."""
    reached = []
    for action in simulator.expert():
        observation, success, done, _ = simulator.step(action)
        pose = observation.gripper_pose
        reached.append(keyframe(pose[:3], pose[3:], observation.gripper_open))
        if done:
            return success, reached
    return False, reached


def main(count: int = 100) -> None:
    simulator = TabletopSimulator(SimulatorConfig(image_size=16, cameras=("front",)))
    lines = []
    for task in simulator.tasks():
        solved, replayed = [], []
        for variation, seed in scenes(task, count):
            simulator.reset(task, variation, seed)
            success, reached = demonstrate(simulator)
            simulator.reset(task, variation, seed)
            solved.append(success)
            replayed.append(execute(simulator, reached))
        print(row(task, int(np.sum(solved)), count), flush=True)
        lines.append(row(task, int(np.sum(replayed)), count))
    print("replayed:", *lines, sep="\n")
    simulator.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
